"""LoRA adapters on llama.cpp compute what the merged weights do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from erecap.engines import ENGINES
from erecap.engines.protocol import EngineSettings
from erecap.errors import ModelError
from erecap.models.wheels import sha256
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, gguf_of_small_llama, small_llama
from tests.session.chats import model

pytestmark = NEEDS_LLAMACPP
RANK, ALPHA = 4, 6.0


def write_adapter(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> dict[str, torch.Tensor]:
    """An adapter of all linear layers; returns what it adds to the weights, by the name of the module."""
    torch.manual_seed(5)
    tensors, added = {}, {}
    for name, module in model().model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            a, b = torch.randn(RANK, module.in_features) * 0.2, torch.randn(module.out_features, RANK) * 0.2
            key = f"base_model.model.model.layers.{name}"
            tensors |= {f"{key}.lora_A.weight": a.to(dtype), f"{key}.lora_B.weight": b.to(dtype)}
            added[name] = ALPHA / RANK * (b.to(dtype).float() @ a.to(dtype).float())
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return added


def opened(folder: Path) -> Any:
    from erecap.engines.llamacpp.model import LlamaCppModel

    return LlamaCppModel.open(gguf_of_small_llama(), small_llama().options, adapter=folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beside_packed_weights_it_computes_what_merged_weights_do(tmp_path: Path, dtype: torch.dtype) -> None:
    added = write_adapter(tmp_path / "a", dtype)
    merged = copy.deepcopy(model())
    for name, module in merged.model.layers.named_modules():
        if name in added:
            with torch.no_grad():
                module.weight += added[name]
    ids, rows = list(range(3, 60)), []
    for engine in (
        ENGINES["transformers"](merged, EngineSettings()),
        ENGINES["llamacpp"](opened(tmp_path / "a"), EngineSettings()),
        ENGINES["llamacpp"](small_llama(), EngineSettings()),
    ):
        with engine.attached():
            rows.append(engine.verify(ids))
    assert np.abs(rows[1] - rows[0]).max() <= 2e-4 * np.abs(rows[0]).max() < 0.1 * np.abs(rows[2] - rows[0]).max()
    assert opened(tmp_path / "a").fingerprint() != small_llama().fingerprint()


def test_what_cannot_be_applied_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for config, reason in (
        ({"peft_type": "PREFIX_TUNING"}, "adapters of the kind LORA, not PREFIX_TUNING"),
        ({"use_dora": True}, "llama.cpp cannot apply use_dora=True; merge it first"),
        ({"rank_pattern": {"q_proj": 8}}, "cannot apply rank_pattern"),
        ({"r": 0}, "r=0 and lora_alpha=6.0 are no scaling"),
    ):
        write_adapter(folder, **config)
        with pytest.raises(ModelError, match=reason):
            opened(folder)
    write_adapter(folder)
    weights = folder / "adapter_model.safetensors"
    (folder / "card.json").write_text(json.dumps({"files": {weights.name: "0" * 64}, "base": {}}))
    with pytest.raises(ModelError, match=r"adapter_model.safetensors is damaged: its SHA-256 is not the one in card"):
        opened(folder)
    (folder / "card.json").write_text(json.dumps({"files": {weights.name: sha256(weights)}, "base": {}}))
    assert opened(folder).adapter_hash
    save_file({"base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(2, 2)}, weights)
    (folder / "card.json").unlink()
    with pytest.raises(ModelError, match=r"llama.cpp cannot apply base_model.model.model.embed_tokens"):
        opened(folder)
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: cannot be read"):
        opened(folder)
