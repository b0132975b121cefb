"""Texts that drafts are taken from: a conversation's own, and the answers of others. Both are bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from erecap.decoding.drafts.acceptance import Acceptance
from erecap.decoding.drafts.automaton import SuffixAutomaton

OWN_TOKENS = 16_384  # of a conversation, at most, beside its newest answer
OTHER_TOKENS = 16_384  # of answers in other conversations, at most


class ConversationText:
    """The tokens of one conversation in a suffix automaton, which goes on where they do.

    Tokens of rewritten messages stay a source of drafts until they are the oldest.

    Args:
        most: tokens that are kept; when there are more, the older half goes.
    """

    def __init__(self, most: int = OWN_TOKENS) -> None:
        self._most = most
        self.automaton = SuffixAutomaton()
        self._ids: list[int] = []  # of the conversation, from index `_first` on
        self._places: list[int] = []  # of the automaton after each of them
        self._first = 0
        self._shared = False

    def fork(self) -> ConversationText:
        """An independent text with the same beginning; nothing is copied before one of the two goes on."""
        self.automaton.settle()
        self._shared = True
        twin = ConversationText(self._most)
        twin.automaton, twin._shared, twin._first = self.automaton, True, self._first
        twin._ids, twin._places = list(self._ids), list(self._places)
        return twin

    def follow(self, ids: Sequence[int], first: int = 0) -> None:
        """Go on to the end of `ids`, the conversation from token index `first` on, which may have been rewritten."""
        self._make_own()
        gone = first - self._first
        if gone < 0 or gone > len(self._ids):
            self._begin(first)
        elif gone:
            del self._ids[:gone], self._places[:gone]
            self._first = first
        same = _common(self._ids, ids)
        if same < len(self._ids):
            del self._ids[same:], self._places[same:]
            self.automaton.place = self._places[-1] if same else 0
        self._extend(ids[same:])
        if self.automaton.tokens > self._most:
            self._forget_older()
        self.automaton.settle()

    def add(self, ids: Sequence[int]) -> None:
        """Go on with tokens of an answer."""
        self._make_own()
        self._extend(ids)
        self.automaton.settle()

    @property
    def end(self) -> list[int]:
        """The newest tokens, as many as `DraftMemory` is searched for."""
        return self._ids[-SEARCHED:]

    def _extend(self, ids: Sequence[int]) -> None:
        for token in ids:
            self.automaton.append(token)
            self._places.append(self.automaton.place)
        self._ids.extend(ids)

    def _forget_older(self) -> None:
        kept = self._ids[-(self._most // 2) :]
        first = self._first + len(self._ids) - len(kept)
        self.automaton = SuffixAutomaton()
        self._begin(first)
        self._extend(kept)

    def _begin(self, first: int) -> None:
        self.automaton.place = 0
        self._ids, self._places, self._first = [], [], first

    def _make_own(self) -> None:
        if self._shared:
            self.automaton, self._shared = self.automaton.copy(), False


SEARCHED = 32  # newest tokens that are looked for in other conversations


class DraftMemory:
    """Answers of several conversations, such as the episodes of a run, from which all of them may draft.

    Whoever may not see another's text must not share a memory with him, since what is proposed shows in the time of an
    answer. Threads may share one.

    Args:
        most: tokens that are kept; when there are more, the older half of them goes.
    """

    def __init__(self, most: int = OTHER_TOKENS) -> None:
        self.acceptance = Acceptance()
        self._most = most
        self._automaton = SuffixAutomaton()
        self._texts: deque[list[int]] = deque()
        self._lock = threading.Lock()

    def __deepcopy__(self, known: dict[int, Any]) -> DraftMemory:
        return self.copy()  # a lock cannot be copied

    @property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return self._automaton.tokens

    def copy(self) -> DraftMemory:
        """An independent copy."""
        with self._lock:
            twin = DraftMemory(self._most)
            twin.acceptance = self.acceptance.copy()
            twin._automaton, twin._texts = self._automaton.copy(), deque(self._texts)
        return twin

    def add(self, ids: Sequence[int]) -> None:
        """Keep an answer: the newest tokens of it, where it has more than half of those that are kept."""
        text = list(ids[-(self._most // 2) :])
        if not text:
            return
        with self._lock:
            try:
                self._texts.append(text)
                if self._automaton.tokens + len(text) > self._most:
                    self._forget_older()
                else:
                    self._add(text)
                self._automaton.settle()
            except BaseException:  # an interrupt; what is half made is not used
                self._automaton = SuffixAutomaton()
                self._texts.clear()
                raise

    def _forget_older(self) -> None:
        left = sum(map(len, self._texts))
        while left > self._most // 2:
            left -= len(self._texts.popleft())
        self._automaton = SuffixAutomaton()
        for text in self._texts:
            self._add(text)

    def _add(self, text: Sequence[int]) -> None:
        self._automaton.begin_text()
        self._automaton.extend(text)

    @contextmanager
    def searched(self) -> Iterator[SuffixAutomaton]:
        """The automaton, which stays as it is within."""
        with self._lock:
            yield self._automaton


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    low, high = 0, min(len(one), len(two))
    if one[:high] == two[:high]:
        return high
    while low < high:  # comparing slices is faster than comparing tokens
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low
