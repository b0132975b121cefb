"""The model that a pruner is trained for, and its description."""

from __future__ import annotations

from typing import Any

from erecap.generation import JsonRow
from erecap.language_models.build import ModelSettings, open_model


def load_base(name: str, device: str = "auto", adapter: str | None = None) -> tuple[Any, Any, JsonRow]:
    """The model in float32, with an adapter merged into it if one is named; its tokenizer; and what they are.

    Returns:
        `(model, tokenizer, base)`, `base` with `name`, `hash` (of the model's folder) and `adapter` (hash or None).

    Raises:
        ModelError: missing or damaged.
    """
    opened = open_model(ModelSettings(name, adapter, "float32", device))
    base = {"name": opened.facts["name"], "hash": opened.fingerprint, "adapter": opened.adapter_hash}
    return opened.model, opened.tokenizer, base
