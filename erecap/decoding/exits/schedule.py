"""Schedule of looks: the layers where most tokens leave, and those around the last exits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from erecap.config.exits import Scheduling

NEWEST = 5  # exits that are remembered: a token leaves near where the last ones left
AROUND = 1  # layers before and behind each of them


class Schedule:
    """Says which layers are looked at for the next token.

    Args:
        kind: `static`, `two-level` (those of `static`, and around the last five exits), or `every` layer of `known`.
        known: layers that there is a predictor for.
        static: layers where most tokens left in training.
    """

    def __init__(self, kind: Scheduling, known: Sequence[int], static: Sequence[int]) -> None:
        self._kind = kind
        self._known = frozenset(known)
        self._static = self._known if kind == "every" else frozenset(static) & self._known
        self._exits: deque[int] = deque(maxlen=NEWEST)

    def left(self, layer: int) -> None:
        """Note that a token left after `layer` layers."""
        self._exits.append(layer)

    def layers(self) -> tuple[int, ...]:
        """The layers to look at, rising; there is always one."""
        if self._kind != "two-level":
            return tuple(sorted(self._static))
        near = {layer + step for layer in self._exits for step in range(-AROUND, AROUND + 1)}
        return tuple(sorted(self._static | (near & self._known)))

    def copy(self) -> Schedule:
        """An independent schedule with the same exits."""
        twin = Schedule(self._kind, tuple(self._known), tuple(self._static))
        twin._exits = self._exits.copy()
        return twin
