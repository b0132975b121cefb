"""Rotary embeddings of a decoder, and the angles of one of its layers."""

from __future__ import annotations

from typing import Any

import torch

# Their angles depend on the longest sequence of a call, so that reading in other pieces gives other keys.
CHANGING = frozenset({"dynamic", "longrope"})


def rope_kinds(config: Any) -> set[str]:
    """The `rope_type` of every rotary embedding in a decoder's configuration; several where layers differ."""
    return {part.get("rope_type", "default") for part in _parts(config)}


def by_layer_type(config: Any) -> bool:
    """Return True if layers of different types have rotary embeddings of their own, as in Gemma3."""
    return any(isinstance(part, dict) for part in _parameters(config).values())


def layer_type(config: Any, layer: int) -> str | None:
    """The argument of the rotary module for `layer`; None where all layers share one embedding."""
    return config.layer_types[layer] if by_layer_type(config) else None


def angles(rotary: Any, like: torch.Tensor, positions: torch.Tensor, kind: str | None) -> tuple[Any, Any]:
    """Cosines and sines `(1, n, dim)` at `positions` `(1, n)`, in the dtype of `like`.

    Args:
        rotary: the decoder's rotary module.
        kind: from `layer_type`.
    """
    cos, sin = rotary(like, positions) if kind is None else rotary(like, positions, kind)
    return cos, sin


def _parameters(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _parts(config: Any) -> list[dict[str, Any]]:
    parameters = _parameters(config)
    return [part for part in parameters.values() if isinstance(part, dict)] or [parameters]
