"""LoRA adapters of PEFT as GGUF files, which llama.cpp applies beside the packed weights of their base.

The base stays as it is: weights that were merged with an adapter are no 4-bit blocks any more, and packing them again
would change them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from erecap.engines.llamacpp.model import LlamaCppModel
from erecap.errors import ModelError
from erecap.files import cache_dir
from erecap.models.gguf_files import entry_of

_log = logging.getLogger(__name__)
CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "card.json"
_NAME = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.weight")
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
# Fields of PEFT that change what the matrices mean, and the values that do not.
_PLAIN = {"bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "modules_to_save": ([],),
          "alpha_pattern": ({},), "rank_pattern": ({},), "lora_bias": (False,)}  # fmt: skip


def converted(folder: Path, model: LlamaCppModel) -> Path:
    """The adapter in `folder` as a GGUF file for `model`, in the cache; written unless it is there.

    Raises:
        ModelError: it is damaged, of another base, or of a kind that llama.cpp cannot apply.
    """
    config, card = _read(folder / CONFIG), _read(folder / CARD) if (folder / CARD).is_file() else None
    try:
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read: {error.strerror}") from error
    _check(folder, config, card, digest, model)
    kind = model.facts.get("general.architecture", "?")
    key = hashlib.sha256(json.dumps([digest, config, kind], sort_keys=True).encode()).hexdigest()[:24]
    target = cache_dir() / "gguf" / f"adapter-{key}.gguf"
    if not target.is_file():
        _write(target, folder, config, kind, model)
    return target


def _check(
    folder: Path, config: Mapping[str, Any], card: Mapping[str, Any] | None, digest: str, model: LlamaCppModel
) -> None:
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: llama.cpp applies adapters of the kind LORA, not {config.get('peft_type')}")
    other = next((name for name, idle in _PLAIN.items() if config.get(name) not in (None, *idle)), None)
    if other is not None:
        raise ModelError(f"{folder / CONFIG}: llama.cpp cannot apply {other}={config[other]!r}; merge it first")
    if card is None:
        _log.warning("adapter %s has no %s: that %s is its base is not checked", folder.name, CARD, model.path.name)
        return
    if card.get("files", {}).get(WEIGHTS) != digest:
        raise ModelError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one in {CARD}")
    base, entry = card.get("base", {}), entry_of(model.digest)
    if entry is None:
        _log.warning("adapter %s: that %s holds its base is not checked", folder.name, model.path.name)
    elif base.get("fingerprint") != entry.fingerprint:
        raise ModelError(
            f"adapter {folder.name} was trained on {base.get('name')} with weights "
            f"{str(base.get('fingerprint'))[:23]}, but {model.path.name} has {entry.fingerprint[:23]}; use that base"
        )


def _write(target: Path, folder: Path, config: Mapping[str, Any], kind: str, model: LlamaCppModel) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(f"{folder / CONFIG}: r={rank!r} and lora_alpha={alpha!r} are no scaling")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    tensors = _tensors(folder / WEIGHTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".part")
    out = GGUFWriter(draft, kind)
    out.add_type("adapter")
    out.add_string("adapter.type", "lora")
    out.add_float32("adapter.lora.alpha", 0.0)  # the scaling is in the matrices
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None or found[2] not in _PARTS:
            raise ModelError(f"{folder / WEIGHTS}: llama.cpp cannot apply {name}; merge it first")
        layer, part, side = found.groups()
        matrix = tensor
        if not np.isfinite(matrix).all():
            raise ModelError(f"{folder / WEIGHTS}: {name} holds values that are not finite")
        if side == "B":
            matrix = _rows(matrix * np.float32(scaling), part, kind, model.heads)
        out.add_tensor(
            f"blk.{layer}.{_PARTS[part]}.weight.lora_{side.lower()}", matrix, raw_dtype=GGMLQuantizationType.F32
        )
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    draft.replace(target)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file in float32; numpy has no bfloat16, so its bits are widened here."""
    from safetensors import SafetensorError, deserialize

    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    found = {}
    try:
        for name, part in deserialize(path.read_bytes()):
            if part["dtype"] not in kinds:
                raise ModelError(f"{path}: {name} has the dtype {part['dtype']}; allowed: {', '.join(kinds)}")
            bits = np.frombuffer(part["data"], kinds[part["dtype"]]).reshape(part["shape"])
            wide = (bits.astype(np.uint32) << 16).view(np.float32) if part["dtype"] == "BF16" else bits
            found[name] = wide.astype(np.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    return found


def _rows(matrix: np.ndarray, part: str, kind: str, heads: tuple[int, int]) -> np.ndarray:
    """The rows in the order of the file's weights; in llama's, numbers that are rotated together lie side by side."""
    if kind != "llama" or part not in ("self_attn.q_proj", "self_attn.k_proj"):
        return matrix
    halves = matrix.reshape(heads[part == "self_attn.k_proj"], 2, -1, matrix.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds no object")
    return found
