"""The state of a model's weights, to notice that stored keys and values were computed by others."""

from __future__ import annotations

from typing import Any


def weights_state(model: Any) -> tuple:
    """A state that changes whenever the weights of `model` or its active adapters do."""
    weights = tuple(
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in model.parameters()
    )
    if not getattr(model, "peft_config", None) and not getattr(model, "_hf_peft_config_loaded", False):
        return weights
    adapters = [
        (str(getattr(module, "active_adapters", None)), getattr(module, "disable_adapters", False))
        for module in model.modules()
        if hasattr(module, "active_adapters")
    ]
    return (*weights, *adapters)
