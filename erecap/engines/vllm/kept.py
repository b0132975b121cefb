"""The tokens that a conversation keeps in the connector's store, and the requests that go on from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import uuid4
from weakref import finalize

import numpy as np

from erecap.engines.uniform import HeldConversation, HeldTokens, empty_column
from erecap.engines.vllm.wire import Asked, Told, runs_of
from erecap.errors import RunError


class Keeper(Protocol):
    """A vLLM with the connector, in this process or behind an address."""

    unused: list[str]  # names of entries that are not needed any more

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        ...

    @property
    def why_fixed(self) -> str | None:
        """Reason why stored keys cannot be rotated to other positions; None: they can."""
        ...

    def holds(self, name: str) -> bool:
        """False if it is known that the store has lost an entry."""
        ...


@dataclass(frozen=True)
class Ask:
    """One request: the whole prompt, how its beginning is kept, and how many tokens to answer with."""

    ids: Sequence[int]
    asked: Asked
    salt: str
    most: int = 1
    ends: Sequence[int] = ()


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, the connector's word, and how many tokens of the prompt were not read."""

    ids: tuple[int, ...]
    told: Told
    cached: int
    blocks: int  # of vLLM's cache that the request took, its answer included


def all_of(unused: list[str]) -> tuple[str, ...]:
    """Take all names out of a list that other threads add to, and take from, meanwhile."""
    found = []
    while unused:
        try:
            found.append(unused.pop())
        except IndexError:  # another thread was faster
            break
    return tuple(found)


class Entry:
    """An entry of the store that engines share; the store may forget it when none of them has it any more."""

    def __init__(self, keeper: Keeper, name: str, salt: str, rows: int) -> None:
        self.name, self.salt, self.rows = name, salt, rows
        finalize(self, keeper.unused.append, name)


@dataclass(frozen=True, kw_only=True)
class Held(HeldTokens):
    """The tokens that an engine stores, and the entry of the store that has their keys and values.

    Attributes:
        row: `(n,)` their rows in the entry.
        ids: `(n,)` the tokens.
        entry: the store's; None: nothing was read.
        ahead: positions that the entry's tokens were ahead of vLLM's numbering of them, in the request that made it.
    """

    row: np.ndarray = field(default_factory=empty_column)
    ids: np.ndarray = field(default_factory=empty_column)
    entry: Entry | None = None
    ahead: int = 0


NEVER = -1  # tokens are never ahead by less than 0: no request goes on where another one ended


class KeptTokens(HeldConversation[Held]):
    """The tokens of one conversation.

    vLLM numbers the tokens of a prompt from 0. So a request's kept keys are turned such that all distances are those of
    the conversation: gaps of evicted tokens stay, until they are closed by `reposition`.
    """

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._held = Held()

    @property
    def entry(self) -> str | None:
        """Name of the store's entry that the next request goes on from."""
        return None if self._held.entry is None else self._held.entry.name

    @property
    def indices(self) -> np.ndarray:
        """`(n,)` rising indices of the stored tokens."""
        return self._held.index

    def ask(self, ids: Sequence[int], most: int = 1, ends: Sequence[int] = ()) -> Ask:
        """The request that reads `ids` and answers with at most `most` tokens; give its answer to `took`.

        Raises:
            ValueError: an id that is not in the vocabulary.
            RunError: the store has lost the tokens before.
        """
        below = self.keeper.vocabulary
        bad = next((token for token in ids if not 0 <= token < below), None)
        if bad is not None:
            raise ValueError(f"token id {bad} is not in the vocabulary of {below}")
        held = self._held
        if not len(held.index):
            return Ask(list(ids), Asked(), uuid4().hex, most, ends)
        if held.entry is None or not self.keeper.holds(held.entry.name):
            raise RunError("engine vllm: its store has lost the tokens before; raise store_mb, or read them again")
        kept = len(held.index)
        ahead = self.next_position - kept
        places = held.position - ahead
        keep = tuple((first, first + count) for first, count in runs_of(held.row))
        at = None if np.array_equal(places, np.arange(kept)) else runs_of(places)
        asked = Asked(held.entry.name, keep, at)
        goes_on = kept == held.entry.rows and ahead == held.ahead
        salt = held.entry.salt if goes_on else f"{asked.salt()}-{uuid4().hex}"
        return Ask([*held.ids.tolist(), *ids], asked, salt, most, ends)

    def took(self, ask: Ask, answer: Answer) -> None:
        """Go on from the answer to a request; its own tokens were read as well, but for the last."""
        held, kept, start = self._held, len(self._held.index), self.next_position
        if answer.told.entry is None:
            raise RunError(f"engine vllm: {answer.told.refused}; raise store_mb, or close other sessions")
        new = np.arange(answer.told.rows - kept)
        self._held = Held(
            index=np.concatenate([held.index, held.tokens + new]),
            position=np.concatenate([held.position, start + new]),
            row=np.arange(answer.told.rows),
            ids=np.asarray([*ask.ids, *answer.ids][: answer.told.rows], np.int64),
            entry=Entry(self.keeper, answer.told.entry, ask.salt, answer.told.rows),
            ahead=start - kept,
            tokens=held.tokens + len(new),
            shift=held.shift,
        )

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Leave the tokens with these indices out of the next request."""
        [indices] = gone
        stay = ~np.isin(self._held.index, indices)
        self._held = self._held.where(stay)
        return int((~stay).sum())

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions from 0; keys are turned by the next request, from their first.

        Raises:
            ValueError: the keys of this model cannot be turned.
        """
        if self.keeper.why_fixed is not None:
            raise ValueError(self.keeper.why_fixed)
        count = len(self._held.index)
        self._held = replace(self._held, position=np.arange(count), shift=self._held.tokens - count)

    def reset(self) -> None:
        """Forget everything."""
        self._held = Held()

    def share(self, twin: KeptTokens) -> None:
        """Let another conversation go on from the same entry.

        Neither goes on in its blocks: it would find those of tokens that the other one has read, and so no logits.
        """
        self._held = twin._held = replace(self._held, ahead=NEVER)
