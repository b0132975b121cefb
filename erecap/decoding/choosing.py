"""Greedy choices among the tokens that a grammar allows, without the logits of all others.

The head is a fifth of a small model's weights, and a grammar of commands leaves a handful of tokens. So only their rows
are multiplied (`erecap.decoding.best`), and none where there is no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from erecap.generation import AllowedTokens


class ChoosingReader(Protocol):
    """An engine that chooses among some tokens."""

    def chooses(self, tokens: int) -> bool:
        """True if a read of `tokens` tokens can choose among a few; where it cannot, no grammar need be asked."""
        ...

    def choose(self, ids: Sequence[int], among: Sequence[Sequence[int]]) -> list[int] | None:
        """Read `ids` as `verify` does, and choose after each of the last `len(among)` tokens.

        Args:
            among: for each of these tokens the ids to choose from, at least one.

        Returns:
            Of each set the id with the highest logit, of equal ones the lowest; None, with nothing read, where the
            read cannot choose (see `chooses`), or where the logits of all tokens cost no more.
        """
        ...


@dataclass(frozen=True)
class Chooser:
    """The choices of one answer.

    Args:
        reader: reads it.
        ends: ids that end it.
    """

    reader: ChoosingReader
    ends: Sequence[int]

    def choices(
        self, allowed: AllowedTokens, generated: Sequence[int], pending: Sequence[int], proposal: Sequence[int]
    ) -> list[int] | None:
        """Read `pending`, the end of `generated`, and `proposal`; the choices behind both as far as they are needed.

        Returns:
            The token after `generated`, and after each token of `proposal` before the first that cannot stay; None,
            with nothing read, where the reader computes the logits of all tokens.
        """
        if not self.reader.chooses(len(pending) + len(proposal)):
            return None
        sets = [allowed(generated)]
        for number, token in enumerate(proposal):
            # Nothing comes after an end; what the grammar does not allow is not what is chosen.
            if token in self.ends or token not in sets[-1]:
                break
            behind = allowed([*generated, *proposal[: number + 1]])
            if not len(behind):  # the answer has ended before, with a text that stops it
                break
            sets.append(behind)
        unasked = [[token] for token in proposal[len(sets) - 1 :]]
        found = self.reader.choose([*pending, *proposal], [*sets, *unasked])
        return None if found is None else found[: len(sets)]
