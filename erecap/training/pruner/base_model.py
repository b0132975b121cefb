"""The model that a pruner is trained for, and what it is known by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.generation import JsonRow
from erecap.models import fingerprint, load, locate
from erecap.models.adapters import describe_adapter


def load_base(name: str, device: str = "auto", adapter: str | None = None) -> tuple[Any, Any, JsonRow]:
    """The model in float32, with an adapter merged into it if one is named; its tokenizer; and what they are.

    Returns:
        `(model, tokenizer, base)`, `base` with `name`, `hash` (of the model's folder) and `adapter` (hash or None).

    Raises:
        ModelError: missing or damaged.
    """
    model, tokenizer = load(name, "float32", device, adapter=adapter)
    base = {
        "name": Path(name).name if Path(name).is_absolute() else name,
        "hash": fingerprint(locate(name)),
        "adapter": describe_adapter(adapter)["hash"] if adapter is not None else None,
    }
    return model, tokenizer, base
