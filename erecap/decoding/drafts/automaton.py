"""Suffix automaton over token ids: every run of tokens of the texts added, and how often each occurs.

Blumer et al., The smallest automaton recognizing the subwords of a text (1985). A state stands for runs that end at the
same places, so that one count serves all of them. Adding a token takes constant time, averaged over a text; a text of
n tokens makes at most 2n states.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

ROOT = 0  # the state of the empty run


class SuffixAutomaton:
    """Runs of tokens of several texts, none of which reaches from one text into the next.

    Attributes:
        tokens: tokens added.
        place: the state of the whole present text. What is added next goes on from there, so an earlier value goes on
            from where that was.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]  # the longest shorter run that ends at more places
        self._length = [0]  # tokens of the longest run of a state
        self._count = [0]
        self._newest = [0]
        self.place = ROOT
        self._due: dict[int, tuple[int, int]] = {}  # occurrences, and the newest, that links do not know of yet

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self._link)

    def copy(self) -> SuffixAutomaton:
        """An independent copy; it takes a tenth of the time of adding all tokens anew."""
        twin = SuffixAutomaton.__new__(SuffixAutomaton)
        twin.tokens, twin.place, twin._due = self.tokens, self.place, dict(self._due)
        twin._next = [dict(following) for following in self._next]
        twin._link, twin._length = list(self._link), list(self._length)
        twin._count, twin._newest = list(self._count), list(self._newest)
        return twin

    # Adding -----------------------------------------------------------------------------------------------

    def begin_text(self) -> None:
        """Let what is added next begin another text."""
        self.place = ROOT

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens at the end of the present text."""
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token at the end of the present text."""
        following, link, length, last = self._next, self._link, self._length, self.place
        found = following[last].get(token)
        if found is not None:  # at the beginning of a text, as far as another text begins alike
            current = found if length[found] == length[last] + 1 else self._split(last, token, found)
        else:
            current = self._state({}, length[last] + 1, ROOT)
            state = last
            while state >= 0 and token not in following[state]:
                following[state][token] = current
                state = link[state]
            if state >= 0:
                found = following[state][token]
                link[current] = found if length[found] == length[state] + 1 else self._split(state, token, found)
        self.place = current
        self.tokens += 1
        self._due[current] = self._due.get(current, (0, 0))[0] + 1, self.tokens

    def _state(self, following: dict[int, int], length: int, link: int) -> int:
        self._next.append(following)
        self._length.append(length)
        self._link.append(link)
        self._count.append(0)
        self._newest.append(0)
        return len(self._link) - 1

    def _split(self, state: int, token: int, found: int) -> int:
        """Give the runs of `found` that are no longer than those of `state` and a `token` a state of their own."""
        following, link = self._next, self._link
        shorter = self._state(dict(following[found]), self._length[state] + 1, link[found])
        self._count[shorter], self._newest[shorter] = self._count[found], self._newest[found]
        link[found] = shorter
        while state >= 0 and following[state].get(token) == found:
            following[state][token] = shorter
            state = link[state]
        return shorter

    def settle(self) -> None:
        """Bring all counts up to date, in one visit of each state that changed; asked before counts are read."""
        due, link, length = self._due, self._link, self._length
        longest_first = [(-length[state], state) for state in due]
        heapify(longest_first)
        while longest_first:
            state = heappop(longest_first)[1]
            times, place = due.pop(state)
            self._count[state] += times
            self._newest[state] = max(self._newest[state], place)
            shorter = link[state]
            if shorter > ROOT:
                if shorter not in due:
                    heappush(longest_first, (-length[shorter], shorter))
                before = due.get(shorter, (0, 0))
                due[shorter] = before[0] + times, max(before[1], place)

    # Asking -----------------------------------------------------------------------------------------------

    def repeated(self) -> tuple[int, int]:
        """The state and the length of the longest end of the present text that occurs elsewhere as well."""
        last = self.place
        if self._count[last] > 1:  # another text begins with all of it
            return last, self._length[last]
        state = self._link[last]
        return (ROOT, 0) if state < 0 else (state, self._length[state])

    def match(self, ids: Iterable[int]) -> tuple[int, int]:
        """The state and the length of the longest end of `ids` that occurs in a text."""
        state, size = ROOT, 0
        for token in ids:
            state, size = self.step(state, size, token)
        return state, size

    def step(self, state: int, size: int, token: int) -> tuple[int, int]:
        """The longest end of a run and one more `token` that occurs: its state and length.

        Args:
            state, size: of the run.
        """
        while token not in self._next[state]:
            state = self._link[state]
            if state < 0:
                return ROOT, 0
            size = self._length[state]
        return self._next[state][token], size + 1

    def shorter(self, state: int) -> tuple[int, int]:
        """The longest end of a state's runs that occurs at more places: its state and length; -1 behind the root."""
        state = self._link[state]
        return state, self._length[state] if state >= 0 else 0

    def count(self, state: int) -> int:
        """Number of times that a state's runs occur."""
        return self._count[state]

    def following(self, state: int) -> list[tuple[int, int, int]]:
        """Tokens that follow a state's runs, with how often, and after how many tokens added that was last."""
        return [(token, self._count[to], self._newest[to]) for token, to in self._next[state].items()]

    def likeliest(self, state: int) -> tuple[int, int, int, int] | None:
        """The token that follows a state's runs most often, the newest of equals; None where nothing does.

        Returns:
            The token, its state, how often it follows, and how often anything does.
        """
        best, total = None, 0
        for token, to in self._next[state].items():
            times = self._count[to]
            total += times
            if best is None or (times, self._newest[to]) > (self._count[best[1]], self._newest[best[1]]):
                best = token, to
        return None if best is None else (*best, self._count[best[1]], total)
