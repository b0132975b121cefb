"""Drafts for decoding: earlier text that is likely to be repeated.

Prompt lookup: the newest generated tokens are searched in texts that may go on in the same way, and what followed them
there is proposed. Nothing is computed; verification decides. Published as prompt lookup decoding (Saxena, 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

MAX_GRAM = 4  # newest tokens that must be found; a longer run is no better guide in plans
# Tokens of a proposal. Three, with the token before them, make a pass of four, which costs a third more than a pass of
# one; a fifth token costs as much as those three together (kernels for packed weights take four rows at a time).
SHORTEST, LONGEST = 3, 16
LOOK_BACK = 1024  # most tokens of earlier text that are searched


class LookupDraft:
    """Proposes what followed the longest run of the newest tokens.

    Runs of equal length are taken from the answer itself first, then from `sources` in order, then from `past`.

    Args:
        sources: token ids to copy from, such as the previous plan and the newest message.
        length: tokens of the first proposals. Those that follow are twice as long after one that was right to its end,
            and as long as was right, and one more, after another: a wrong token costs time as well.
        past: token ids read before; the newest `LOOK_BACK` of them are searched.
    """

    def __init__(self, sources: Sequence[Sequence[int]], length: int = SHORTEST, past: Sequence[int] = ()) -> None:
        self._sources = [list(source) for source in sources if source]
        self._length = length
        self._past = list(past[-LOOK_BACK:])
        self._places: list[dict[int, list[int]]] | None = None  # made when something is looked up first

    def learn(self, proposed: int, accepted: int) -> None:
        """Record that of `proposed` tokens the first `accepted` were right."""
        if accepted == proposed:
            self._length = min(LONGEST, 2 * self._length)
        else:
            self._length = max(SHORTEST, accepted + 1)

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`; empty if nothing matches."""
        if not generated:
            return self._sources[0][: self._length] if self._sources else []
        if self._places is None:
            self._places = [_places(text) for text in (*self._sources, self._past)]
        own = list(generated)
        gram = own[-MAX_GRAM:]
        size, copy = 0, list[int]()
        # A text is asked only for longer runs than those before it have.
        ends = [place for place in range(len(own) - 1) if own[place] == own[-1]]
        found = _longest(own, ends, gram, size)
        if found:
            size, best = found[0], found[1][-1]
            copy = own[best + 1 :]
            while len(copy) < self._length:  # a line that repeats goes on repeating
                copy += copy
        for text, places in zip((*self._sources, self._past), self._places, strict=True):
            found = _longest(text, places.get(own[-1], ()), gram, size)
            if found:
                size, ends = found
                # In a plan the match nearest to where the copy has got to, so that repeated lines continue in order;
                # of what was read, the newest.
                best = ends[-1] if text is self._past else min(ends, key=lambda end: abs(end + 1 - len(own)))
                copy = text[best + 1 : best + 1 + self._length]
        return copy[: self._length]


def _places(text: Sequence[int]) -> dict[int, list[int]]:
    """Where each token stands, in order; the last one is left out, as nothing follows it."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, token in enumerate(text[:-1]):
        places[token].append(place)
    return places


def _longest(text: Sequence[int], ends: Sequence[int], gram: Sequence[int], least: int) -> tuple[int, list[int]] | None:
    """The longest run of the last tokens of `gram` in `text`, if longer than `least`, and the indices at which it ends.

    Args:
        ends: indices of the last token of `gram`.
    """
    size, places = least + 1, list[int]()
    for end in ends:
        run = 1
        while run < len(gram) and run <= end and text[end - run] == gram[-1 - run]:
            run += 1
        if run > size:
            size, places = run, [end]
        elif run == size:
            places.append(end)
    return (size, places) if places else None
