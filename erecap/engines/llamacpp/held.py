"""The columns of an engine on llama.cpp: the tokens that it stores and their positions; checked when restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from erecap.engines.llamacpp.memory import positions_of
from erecap.engines.uniform import HeldTokens, empty_column
from erecap.errors import RunError

COLUMNS = ("index", "position", "place")


@dataclass(frozen=True, kw_only=True)
class Held(HeldTokens):
    """The tokens that an engine stores, and the cells that it has given up.

    Attributes:
        place: `(n,)` positions under which llama.cpp has them. They differ from `position` for a token that the next
            one does not follow directly: llama.cpp wants positions to go on by 1, see `LlamaCppEngine._close_gap`.
        gone: runs `(start, end)` of places whose cells are to be freed before the next pass.
    """

    place: np.ndarray = field(default_factory=empty_column)
    gone: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """The place behind the last token."""
        return int(self.place[-1]) + 1 if len(self.place) else 0


def problem_of(columns: Sequence[np.ndarray], state: np.ndarray, tokens: Any, shift: Any, window: int) -> str | None:
    """Reason why what a file holds is not the state of an engine."""
    if type(tokens) is not int or type(shift) is not int or not 0 <= tokens - shift <= window:
        return f"{tokens} tokens with a shift of {shift} do not end within the window of {window}"
    bounds = (tokens, tokens - shift, tokens - shift)
    for name, column, below in zip(COLUMNS, columns, bounds, strict=True):
        rising = column.ndim == 1 and column.dtype == np.int64 and bool((np.diff(column) > 0).all())
        if not rising or column.shape != columns[0].shape or (len(column) and not 0 <= column[0] <= column[-1] < below):
            return f"{name} does not rise within 0 to {below - 1}"
    if state.dtype != np.uint8 or state.ndim != 1 or (len(state) == 0) != (len(columns[0]) == 0):
        return "its cells are not those of its tokens"
    try:
        places = np.sort(positions_of(state)) if len(state) else np.empty(0)
    except RunError as error:
        return str(error)
    return None if np.array_equal(places, columns[2]) else "its cells are not those of its tokens"


def runs(place: np.ndarray, gone: np.ndarray) -> list[tuple[int, int]]:
    """The shortest list of ranges of places that holds all that are `gone` and none of the others."""
    return [(int(place[first]), int(place[last]) + 1) for first, last in alike(gone) if gone[first]]


def alike(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of equal values."""
    ends = np.flatnonzero(np.diff(values)) if len(values) else np.empty(0, np.int64)
    if not len(values):
        return []
    return list(zip([0, *(ends + 1).tolist()], [*ends.tolist(), len(values) - 1], strict=True))
