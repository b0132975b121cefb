"""The keys and values of a store's entries, as each worker holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MOST_PARTS = 32  # of an entry; more are joined


@dataclass(frozen=True)
class Part:
    """Tokens that were read together.

    Attributes:
        keys, values: `(layers, n, kv_heads, head_dim)`; keys as they were stored first.
        first: `(n,)` int64 positions that the keys are turned to.
    """

    keys: torch.Tensor
    values: torch.Tensor
    first: torch.Tensor

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: torch.Tensor) -> Part:
        """These rows, shared where they are all."""
        if len(rows) == len(self):
            return self
        return Part(self.keys.index_select(1, rows), self.values.index_select(1, rows), self.first[rows])


def joined(parts: list[Part]) -> Part:
    """Parts as one."""
    if len(parts) == 1:
        return parts[0]
    return Part(
        torch.cat([part.keys for part in parts], 1),
        torch.cat([part.values for part in parts], 1),
        torch.cat([part.first for part in parts]),
    )


class Rows:
    """The entries by name; each is a list of parts, which entries share."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Part]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def taken(self, name: str, rows: torch.Tensor) -> list[Part]:
        """Some rows of an entry, rising."""
        found, start = [], 0
        for part in self._entries[name]:
            low, high = torch.searchsorted(rows, torch.tensor([start, start + len(part)])).tolist()
            if high > low:
                found.append(part.take(rows[low:high] - start))
            start += len(part)
        return found

    def put(self, name: str, parts: list[Part]) -> None:
        """Add an entry."""
        self._entries[name] = [joined(parts)] if len(parts) > MOST_PARTS else parts

    def names(self) -> list[str]:
        """Names of the entries."""
        return list(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()

    def drop(self, name: str) -> None:
        """Forget an entry, if it is there."""
        self._entries.pop(name, None)
