"""Drafts for decoding: what was said before is likely to be said again.

Prompt lookup: the longest recent run of generated tokens is searched in a source text (the previous plan, the newest
observation), and what followed it there is proposed. Nothing is computed; verification decides.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_GRAM = 3
SHORTEST, LONGEST = 2, 16  # tokens of a proposal


class LookupDraft:
    """Proposes continuations found in `sources`, earlier sources first.

    Args:
        sources: token ids to copy from, such as the previous plan and the newest message.
        length: tokens of the first proposals. Those that follow are twice as long after one that was right to its end,
            and as long as was right, and one more, after another: a wrong token costs time as well.
    """

    def __init__(self, sources: Sequence[Sequence[int]], length: int = 8) -> None:
        self._sources = [list(source) for source in sources if source]
        self._length = length

    def learn(self, proposed: int, accepted: int) -> None:
        """Take note that of `proposed` tokens the first `accepted` were right."""
        if accepted == proposed:
            self._length = min(LONGEST, 2 * self._length)
        else:
            self._length = max(SHORTEST, accepted + 1)

    def propose(self, generated: Sequence[int]) -> list[int]:
        """Tokens that may follow `generated`; empty if nothing matches."""
        if not generated:
            return self._sources[0][: self._length] if self._sources else []
        for size in range(min(MAX_GRAM, len(generated)), 0, -1):
            gram = list(generated[-size:])
            for source in self._sources:
                # The match nearest to where the copy has got to, so that repeated lines continue in order.
                places = [at for at in range(len(source) - size) if source[at : at + size] == gram]
                if places:
                    at = min(places, key=lambda place: abs(place + size - len(generated)))
                    return source[at + size : at + size + self._length]
        return []
