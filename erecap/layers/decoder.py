"""Parts of a transformers model that a layer plan speaks of: the decoder, its layers, their two sublayers."""

from __future__ import annotations

from typing import Any

from torch import nn

from erecap.errors import ModelError

ATTENTION, MLP = "self_attn", "mlp"  # names of the sublayers within a decoder layer


def find_decoder(model: nn.Module, purpose: str = "token pruning") -> nn.Module:
    """The module whose `layers` are the decoder layers.

    Args:
        purpose: needs it, for the message.

    Raises:
        ValueError: the model has no such module.
    """
    found: Any = model.get_decoder() if hasattr(model, "get_decoder") else model
    # Some classes answer with themselves, or with their head where that is called a decoder.
    for decoder in (found, getattr(model, "model", None)):
        if isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            return decoder  # type: ignore[return-value]
    raise ValueError(
        f"{type(model).__name__} has no list of decoder layers; {purpose} needs a causal language model "
        "of transformers whose decoder has `layers` (Llama, Qwen, Mistral, Gemma and most others)"
    )


def planned_decoder(model: nn.Module) -> Any:
    """The decoder of a model that a layer plan can be applied to.

    Raises:
        ModelError: no decoder layers, or layers without the two sublayers that a plan names.
    """
    try:
        decoder: Any = find_decoder(model, "a layer plan")
    except ValueError as error:
        raise ModelError(str(error)) from error
    for number, layer in enumerate(decoder.layers):
        missing = [name for name in (ATTENTION, MLP) if not isinstance(getattr(layer, name, None), nn.Module)]
        if missing:
            raise ModelError(
                f"{type(model).__name__} cannot have a layer plan: its layer {number} ({type(layer).__name__}) has no "
                f"{missing[0]}"
            )
    if getattr(decoder.config, "is_heterogeneous", False):
        raise ModelError(
            f"{type(model).__name__} cannot have a layer plan: its configuration has a part for each layer"
        )
    return decoder


def configs(model: Any, decoder: Any) -> list[Any]:
    """The configurations by which the decoder's layers are counted, each once."""
    found = [decoder.config]
    text = model.config.get_text_config(decoder=True)
    return found if text is decoder.config else [*found, text]
