"""The scheduler's list of a store's entries: their ids and positions, bounded, least recently used out. Without torch.

Workers hold the keys and values. They are told in each step what to add and to drop, and decide nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np

from erecap.engines.vllm.wire import Asked


@dataclass(frozen=True)
class Entry:
    """The tokens of one entry.

    Attributes:
        name: made up here, and never used again.
        ids: `(n,)` token ids.
        places: `(n,)` positions that their keys had in the request which made it.
        salt: the `cache_salt` of that request.
    """

    name: str
    ids: np.ndarray
    places: np.ndarray
    salt: str | None


@dataclass
class StoreIndex:
    """The entries, the least recently used first.

    Attributes:
        most_bytes: bytes that they may take, on each worker.
        row_bytes: bytes of one token there.
        dropped: names of entries that workers are to forget with the next step.
    """

    most_bytes: int
    row_bytes: int
    dropped: list[str] = field(default_factory=list)
    _entries: OrderedDict[str, Entry] = field(default_factory=OrderedDict)
    _pins: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        """Names of the entries."""
        return list(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes that the entries take; rows that two of them share count twice."""
        return self.row_bytes * sum(len(entry.ids) for entry in self._entries.values())

    def get(self, name: str | None) -> Entry | None:
        """The entry of that name, which has now been used; None: there is none."""
        entry = self._entries.get(name) if name is not None else None
        if entry is not None:
            self._entries.move_to_end(entry.name)
        return entry

    def add(
        self, ids: np.ndarray, places: np.ndarray, salt: str | None, *, instead: tuple[str, ...] = ()
    ) -> str | None:
        """Add an entry; its name, or None where it has no room beside those that are in use.

        Args:
            instead: entries that it takes the place of.
        """
        for name in instead:
            self.drop(name)
        wanted = self.row_bytes * len(ids)
        free = [name for name in self._entries if not self._pins.get(name)]
        used = self.bytes
        if used - self.row_bytes * sum(len(self._entries[name].ids) for name in free) + wanted > self.most_bytes:
            return None
        while used + wanted > self.most_bytes:
            name = free.pop(0)
            used -= self.row_bytes * len(self._entries[name].ids)
            self.drop(name)
        made = Entry(uuid4().hex, ids, places, salt)
        self._entries[made.name] = made
        return made.name

    def why_full(self, tokens: int) -> str:
        """Reason why an entry of so many tokens has no room, with the sizes of both."""
        taken = sum(len(self._entries[name].ids) for name in self._pins if name in self._entries)
        needed, used, most = (
            f"{size / (1 << 20):,.2f}" for size in (self.row_bytes * tokens, self.row_bytes * taken, self.most_bytes)
        )
        return (
            f"an entry of {needed} MiB does not fit into a store of {most} MiB, {used} of them in use: "
            "the store is full of entries in use"
        )

    def drop(self, name: str) -> None:
        """Forget an entry; one in use stays until it is not."""
        if name in self._entries and not self._pins.get(name):
            del self._entries[name]
            self.dropped.append(name)

    def pin(self, name: str) -> None:
        """Hold an entry that a request goes on from."""
        self._pins[name] = self._pins.get(name, 0) + 1

    def unpin(self, name: str) -> None:
        """Do not hold it any more."""
        self._pins[name] -= 1
        if not self._pins[name]:
            del self._pins[name]


def refusal(asked: Asked, entry: Entry | None, ids: np.ndarray, salt: str | None, turns: str | None) -> str | None:
    """Reason why a request may not have the rows that it asks for; None: it may.

    Args:
        entry: what it names.
        ids: its prompt.
        salt: its `cache_salt`.
        turns: reason why keys cannot be turned to other positions.
    """
    if asked.source is None:
        return None
    if entry is None:
        return f"the store has no entry {asked.source}"
    rows, places = asked.rows(), asked.places()
    if rows[-1] >= len(entry.ids):
        return f"entry {asked.source} has {len(entry.ids)} rows, row {rows[-1]} is asked for"
    if len(ids) <= len(rows):
        return f"{len(rows)} rows are kept of a prompt of {len(ids)} tokens; at least one token must be new"
    if not np.array_equal(entry.ids[rows], ids[: len(rows)]):
        return "the prompt does not begin with the ids of the kept rows"
    moved = not np.array_equal(places, entry.places[rows])
    if moved and turns is not None:
        return turns
    goes_on = not moved and rows[-1] == len(rows) - 1
    continues = goes_on and salt is not None and salt == entry.salt
    if not continues and (salt is None or not salt.startswith(asked.salt())):
        return "the request needs a cache_salt that begins with that of its kept rows"
    return None
