"""Hooks on rotary embeddings that follow the length of the sequence: they get the length of the whole one.

Such an embedding takes the highest position of a call for the length. Of a sequence that is read in chunks, the early
chunks would then be rotated by other angles than the late ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from erecap.tokens.cache.ropes import changes_itself
from erecap.tokens.scoring import probe

# What dynamic NTK notes of its longest call: names in the module end so. Kept as it was for calls of other people.
NOTED = ("max_seq_len_cached", "inv_freq", "attention_scaling")


def changing_modules(decoder: nn.Module) -> list[nn.Module]:
    """The rotary modules of a decoder whose angles follow the length of the sequence."""
    return [module for module in decoder.modules() if changes_itself(vars(module))]


@contextmanager
def rope_length(length: int | None) -> Iterator[None]:
    """Rotate, within, as in a sequence of `length` tokens; None: as the calls themselves say."""
    before, probe.current.rope_length = probe.current.rope_length, length
    try:
        yield
    finally:
        probe.current.rope_length = before


def lengthen(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    """Put the last position of the whole sequence behind the positions of the call."""
    length = probe.current.rope_length
    if length is None:
        return None
    positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
    last = positions.new_full((*positions.shape[:-1], 1), length - 1)
    longer = torch.cat([positions, last], -1)
    noted = dict(_noted(module))
    probe.current.rope_noted = noted
    for name in noted:
        if name.endswith("max_seq_len_cached"):
            setattr(module, name, 0)  # the angles are then those of this length, whatever was read before
    if "position_ids" in kwargs:
        return args, kwargs | {"position_ids": longer}
    return (args[0], longer, *args[2:]), kwargs


def shorten(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Take the angles of that position off again."""
    if probe.current.rope_length is None:
        return None
    for name, value in probe.current.rope_noted.items():
        setattr(module, name, value)
    probe.current.rope_noted = {}
    return None if output is None else tuple(part[..., :-1, :] for part in output)


def _noted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Notes of a dynamic module; longrope makes its angles anew at each call."""
    if not any(name.endswith("max_seq_len_cached") for name in vars(module)):
        return
    for name in (*vars(module), *module._buffers):
        if name.endswith(NOTED) and not name.endswith("original_inv_freq"):
            yield name, getattr(module, name)
