"""Rotate stored keys to other positions, so that a session can reposition after eviction.

Architectures differ in the layers that have rotary embeddings, in the share of a head that is rotated, and in the
numbers that are paired. None of this is taken from a configuration: a few tokens are read at two places, and
the keys of both tell how each layer turns them.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from erecap.layers.applied import plan_number
from erecap.tokens.cache.ropes import CHANGING, rope_kinds
from erecap.tokens.hooks import find_decoder
from erecap.tokens.servable import can_probe, outside_inference, probe_read, read_problem, tolerance_of

SHIFT = 7  # positions between the two places
# By model: the number of its layer plan, and what was measured with it.
_known: weakref.WeakKeyDictionary[nn.Module, tuple[int, list[Turn] | str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Turn:
    """The rotation of one layer's keys."""

    frequencies: torch.Tensor | None  # `(pairs,)` float32, angle of each pair per position; None: not rotated
    neighbours: bool = False  # pairs are neighbouring numbers, not numbers half of the share apart
    last: bool = False  # the rotated share stands at the end of the head

    def __call__(self, keys: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """`keys` `(1, kv_heads, n, head_dim)`, each turned by `shift` `(n,)` positions; float32."""
        keys = keys.float()
        if self.frequencies is None:
            return keys
        share = 2 * len(self.frequencies)
        start = keys.shape[-1] - share if self.last else 0
        part = keys[..., start : start + share]
        angle = shift.to(keys.device, torch.float32).unsqueeze(1) * self.frequencies.to(keys.device)
        cos, sin = angle.cos(), angle.sin()
        first, second = (part[..., 0::2], part[..., 1::2]) if self.neighbours else part.chunk(2, -1)
        turned = first * cos - second * sin, second * cos + first * sin
        rotated = torch.stack(turned, -1).flatten(-2) if self.neighbours else torch.cat(turned, -1)
        return torch.cat([keys[..., :start], rotated, keys[..., start + share :]], -1)


class KeyRotator:
    """Rotates keys of a model with rotary embeddings to other positions: R(new) = R(shift) R(old).

    Within the model's window the rotation is exact, also for embeddings that change beyond it (see `window_of`).

    Raises:
        ValueError: no rotary embeddings, keys that do not only turn when their token moves, or a model that cannot be
            read through the hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        number, known = plan_number(model), _known.get(model)
        found = known[1] if known is not None and known[0] == number else None
        if found is None:
            found = _measured(model)
            if can_probe(model):
                _known[model] = (number, found)
        if isinstance(found, str):
            raise ValueError(found)
        self._turns = found

    def __call__(self, layer: int, keys: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """`keys` `(1, kv_heads, n, head_dim)` of `layer`, each turned by `shift` `(n,)` positions (may be negative)."""
        turn = self._turns[layer]
        return keys if turn.frequencies is None else turn(keys, shift).to(keys.dtype)


def why_fixed(model: nn.Module) -> str | None:
    """Reason why keys of the model cannot be rotated to other positions; None: they can."""
    try:
        KeyRotator(model)
    except ValueError as error:
        return str(error)
    return None


def _measured(model: Any) -> list[Turn] | str:
    """The turn of each layer, or the reason why there is none."""
    name, problem = type(model).__name__, read_problem(model)
    if problem is not None:
        return problem
    decoder = find_decoder(model)
    frequencies = _frequencies(decoder)
    if not frequencies:
        return f"{name} has no rotary embeddings; its keys cannot change position"
    if model.training:
        return f"{name} is in training mode, in which it answers differently each time; call its eval()"
    if not can_probe(model):
        return f"{name} has no weights to read with yet; its keys cannot change position"
    with outside_inference():
        before, after = (probe_read(model, start).layers for start in (0, SHIFT))
    turns: list[Turn] = []
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.keys is None:
            turns.append(Turn(None))  # a layer without attention stores no keys
            continue
        moved, tolerance = old.keys.new_full(old.keys.shape[2:3], SHIFT), tolerance_of(old.keys.dtype)
        if _apart(old.values.float(), new.values.float()) > tolerance:
            return f"{name} stores values that depend on positions (layer {number}); they cannot change position"
        candidates = _candidates(frequencies, old.keys.shape[-1])
        errors = [_apart(turn(old.keys, moved), new.keys.float()) for turn in candidates]
        best = min(range(len(errors)), key=errors.__getitem__)
        if not errors[best] <= tolerance:  # NaN is no agreement
            return f"{name} does more than rotate its keys (layer {number}); they cannot change position"
        turns.append(candidates[best])
    return turns


def _frequencies(decoder: nn.Module) -> list[torch.Tensor]:
    """The distinct inverse frequencies `(pairs,)` of a decoder's rotary modules."""
    changing = bool(rope_kinds(decoder.config) & CHANGING)
    found: list[torch.Tensor] = []
    for module in decoder.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or buffer.ndim != 1 or name.endswith("original_inv_freq"):
                continue
            # What such an embedding uses beyond the window may stand in its buffer just now.
            original = getattr(module, name.removesuffix("inv_freq") + "original_inv_freq", None)
            taken = original if changing and original is not None else buffer
            if not any(torch.equal(taken.to(other.device), other) for other in found):
                found.append(taken.detach().float().clone())
    return found


def _candidates(frequencies: list[torch.Tensor], dim: int) -> list[Turn]:
    """All turns that keys of `dim` numbers may have."""
    found = [Turn(None)]
    for frequency, neighbours, last, sign in product(frequencies, (False, True), (False, True), (1, -1)):
        share = 2 * len(frequency)
        if share <= dim and not (last and share == dim):
            found.append(Turn(sign * frequency, neighbours, last))
    return found


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The distance of two tensors of one shape, as a share of the larger one's norm."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
