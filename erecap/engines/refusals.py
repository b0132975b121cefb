"""Models of transformers that no session can serve, whatever its settings."""

from __future__ import annotations

from typing import Any


def refuse_unservable(model: Any) -> None:
    """Refuse a model whose forward passes cannot be made in pieces, or cannot be made at all.

    Raises:
        ValueError: an adapter that puts virtual tokens before what is read, or weights without values.
    """
    adapters = getattr(model, "peft_config", None) or {}
    for name, config in adapters.items() if isinstance(adapters, dict) else ():
        if getattr(config, "is_prompt_learning", False):
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            raise ValueError(
                f"the adapter {name!r} is of the kind {kind}, which puts virtual tokens before every forward pass; a "
                "session reads in pieces and serves adapters of layers, such as LORA: merge or leave out this one"
            )
    placed = any(hasattr(module, "_hf_hook") for module in model.modules())
    empty = next((name for name, weight in model.named_parameters() if weight.device.type == "meta"), None)
    if empty is not None and not placed:
        raise ValueError(f"the weight {empty} is on the device meta, which holds no values; load the model first")
