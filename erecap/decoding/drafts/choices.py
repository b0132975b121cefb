"""Remembers what a grammar allows: a draft asks it first, and the decode loop again where tokens come true."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.generation import AllowedTokens

KEPT = 32  # newest ids behind which the choices are remembered


class RememberedChoices:
    """As `allowed`, which is asked only once in a row behind the same ids."""

    def __init__(self, allowed: AllowedTokens) -> None:
        self._allowed = allowed
        self._ids: list[int] = []  # that were asked for last
        self._choices: dict[int, Sequence[int]] = {}  # by the number of ids

    def __call__(self, generated: Sequence[int]) -> Sequence[int]:
        """The ids allowed after those generated."""
        ids, count = list(generated), len(generated)
        if self._ids[:count] != ids:
            same = next((n for n, pair in enumerate(zip(self._ids, ids, strict=False)) if pair[0] != pair[1]), None)
            known = min(len(self._ids), count) if same is None else same
            self._choices = {n: choice for n, choice in self._choices.items() if count - KEPT < n <= known}
            self._ids = ids
        if count not in self._choices:
            self._choices[count] = self._allowed(ids)
        return self._choices[count]
