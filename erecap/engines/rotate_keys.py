"""Rotate stored keys to other positions, so that a session can reposition after eviction."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from erecap.tokens.cache.ropes import angles, layer_type, rope_kinds
from erecap.tokens.hooks import find_decoder

EXACT_ROPES = ("default", "linear", "llama3", "yarn")


class KeyRotator:
    """Rotates keys of a model with rotary embeddings to other positions: R(new) = R(shift) R(old).

    Uses the architecture's own `apply_rotary_pos_emb`, so that partial rotary dimensions and head layouts are its own.

    Raises:
        ValueError: a model without rotary embeddings, or whose rope changes with the length of the sequence
            (dynamic, longrope), for which no shift is exact.
    """

    def __init__(self, model: nn.Module) -> None:
        decoder = find_decoder(model)
        self._rotary = getattr(decoder, "rotary_emb", None)
        if self._rotary is None:
            raise ValueError(f"{type(model).__name__} has no rotary embeddings; its keys cannot change position")
        self._layers = decoder.layers
        self._config = decoder.config
        for layer in self._layers:
            attention = getattr(layer, "self_attn", None)
            if attention is None or next(attention.parameters(), None) is None:
                continue  # a layer without attention stores no keys
            if not hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb"):
                raise ValueError(f"{type(model).__name__} rotates keys by code of its own; they cannot change position")
        for kind in sorted(rope_kinds(decoder.config)):
            if kind not in EXACT_ROPES:
                raise ValueError(
                    f"keys with {kind} RoPE cannot be moved exactly; possible for {', '.join(EXACT_ROPES)}"
                )

    def __call__(self, layer: int, keys: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """`keys` `(1, kv_heads, n, head_dim)` of `layer`, each turned by `shift` `(n,)` positions (may be negative)."""
        attention = self._layers[layer].self_attn
        if getattr(attention, "use_rope", True) in (False, 0):
            return keys
        name = layer_type(self._config, layer)
        like = torch.empty(1, dtype=torch.float32, device=keys.device)
        cos, sin = angles(self._rotary, like, shift.unsqueeze(0), name)
        # Models with scaled attention put the factor into cosines and sines; the stored keys have it already.
        scale = self._scale(name)
        apply: Any = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        turned = apply(keys.float(), keys.float(), cos / scale, sin / scale)[1]
        return turned.to(keys.dtype)

    def _scale(self, name: str | None) -> float:
        attribute = "attention_scaling" if name is None else f"{name}_attention_scaling"
        return float(getattr(self._rotary, attribute, 1.0))


def why_fixed(model: nn.Module) -> str | None:
    """Reason why keys of the model cannot be rotated to other positions; None: they can."""
    try:
        KeyRotator(model)
    except ValueError as error:
        return str(error)
    return None
