"""Keys of cost models: the machine, weights and number format that a calibration holds for."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

# Those that decide which matrix kernels run; what a processor has besides does not matter here.
_FEATURES = (
    "avx2",
    "avx512_f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "neon",
    "bf16",
    "sve",
)


@dataclass(frozen=True)
class CostKey:
    """The key of a stored cost model, which is used for an equal key only."""

    processor: str  # name of the CPU, and of the GPU where the model runs on one
    features: tuple[str, ...]  # instruction sets that kernels are chosen by
    cores: int  # that this process may use
    threads: int  # of torch's arithmetic
    device: str
    weights: str  # fingerprint of the folder that the model was loaded from
    dtype: str
    decode_weights: str  # "same", "int8" or "int4"

    def digest(self) -> str:
        """16 hexadecimal digits; the name of the file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def cost_key(model: Any, decode_weights: str = "same", *, weights: str) -> CostKey:
    """The key of a loaded model on this machine.

    Args:
        weights: `fingerprint` of the folder that the model was loaded from. Not of the loaded model: another dtype than
            the folder's, or an adapter merged into it, changes every bit, and not what a call costs beyond `dtype`.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    name = str(capabilities.get("cpu_name") or platform.processor() or platform.machine())
    if model.device.type == "cuda":
        name = f"{name}, {torch.cuda.get_device_name(model.device)}"
    return CostKey(
        processor=name,
        features=tuple(feature for feature in _FEATURES if capabilities.get(feature, False)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=str(model.device),
        weights=weights,
        dtype=str(model.dtype).removeprefix("torch."),
        decode_weights=decode_weights,
    )
