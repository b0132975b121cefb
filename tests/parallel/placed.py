"""Tiny models whose layers lie on two devices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from accelerate import dispatch_model

LAYERS = 8


def device_map(first: str, second: str, split: int = 4, ends: str | None = None) -> dict[str, str]:
    """Layers before `split` on one device, the rest on another; `ends`: where norm and head lie."""
    ends = ends or first
    layers = {f"model.layers.{number}": first if number < split else second for number in range(LAYERS)}
    return {"model.embed_tokens": first, "model.rotary_emb": first, **layers, "model.norm": ends, "lm_head": ends}


def placed(model: Any, devices: dict[str, str], folder: Path | None = None) -> Any:
    """A copy of `model` that accelerate places."""
    folder = None if folder is None else folder / "offloaded"
    return dispatch_model(
        copy.deepcopy(model), devices, main_device="cpu" if "cuda:0" not in devices.values() else None,
        offload_dir=folder, skip_keys=["past_key_values"],
    )  # fmt: skip
