"""Rotary embeddings of a decoder, and the angles of one of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def rope_switch(config: Any) -> int | None:
    """Tokens from where on rotary embeddings change with the length of the sequence; None: they never do."""
    switches = [_original(config, part) for part in _parts(config) if part.get("rope_type") in CHANGING]
    return min(switches) if switches else None


def angle_kind(config: Any, length: int) -> tuple[int, ...]:
    """The kind of angles that a sequence of `length` tokens has: keys fit each other where it is the same.

    Longrope has two kinds, one up to its switch and one beyond. Dynamic NTK has one up to the original window, and
    another one for each length beyond.
    """
    kinds = []
    for part in _parts(config):
        if part.get("rope_type") == "longrope":
            kinds.append(int(length > _original(config, part)))
        elif part.get("rope_type") == "dynamic":
            kinds.append(length if length > config.max_position_embeddings else 0)
    return tuple(kinds)


def changes_itself(own: dict[str, Any]) -> bool:
    """Return True for the variables of a rotary embedding that follows the length of the sequence."""
    kinds = own.get("rope_type")
    return bool(CHANGING & set(kinds.values() if isinstance(kinds, dict) else (kinds,)))


def window_of(config: Any) -> int | None:
    """Positions that a decoder was made for; None where its configuration does not say.

    YaRN and dynamic NTK stretch the original window by their factor. `max_position_embeddings` is the original one for
    dynamic NTK, and so Qwen's instructions leave it for YaRN.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
    window = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    if window is None:
        return None
    for part in _parts(config):
        if part.get("rope_type") in ("yarn", "dynamic"):
            original = part.get("original_max_position_embeddings") or window
            window = max(window, int((part.get("factor") or 1.0) * original))
    return int(window)


def reuse_window(config: Any) -> int | None:
    """Positions among which stored keys and values fit what is read later; None as for `window_of`.

    Where rotary embeddings change with the length, tokens stored before the change do not fit those read after it, and
    have to be read again (`erecap.engines.rope_lengths`).
    """
    window = window_of(config)
    return None if window is None else min(window, rope_switch(config) or window)


def window_of_model(model: Any, *, reused: bool) -> int:
    """Positions of a causal model: of one call, or of a session that reuses stored keys and values.

    Raises:
        ValueError: its configuration names no window.
    """
    config = model.config.get_text_config(decoder=True)
    window = reuse_window(config) if reused else window_of(config)
    if window is None:
        raise ValueError(f"{type(model).__name__} names no window (max_position_embeddings)")
    return window


def angles(rotary: Any, like: torch.Tensor, positions: torch.Tensor, kind: str | None) -> tuple[Any, Any]:
    """Cosines and sines `(1, n, dim)` at `positions` `(1, n)`, in the dtype of `like`.

    Args:
        rotary: the decoder's rotary module.
        kind: from `layer_type`.
    """
    cos, sin = rotary(like, positions) if kind is None else rotary(like, positions, kind)
    return cos, sin


def _original(config: Any, part: dict[str, Any]) -> int:
    return int(
        part.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
    )


def _parameters(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _parts(config: Any) -> list[dict[str, Any]]:
    parameters = _parameters(config)
    return [part for part in parameters.values() if isinstance(part, dict)] or [parameters]
