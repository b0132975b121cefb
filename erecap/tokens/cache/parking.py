"""Parking: hidden states of tokens that a stage dropped, kept so that the tokens can be revived later.

A token dropped before layer `l` has keys and values in layers 0 to `l - 1` and nowhere deeper. Its hidden state before
layer `l` is all that is needed to run it through the rest (see `erecap.tokens.revival`). One parked token costs
`hidden_size * bytes of the dtype + 17` bytes: its state, its index, its position and whether it is real. That is
2,321 bytes for a model of 576 channels in float32, where its keys and values in one layer would take 1,536.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from erecap.tokens.cache.layout import Layout

PREFIX = "parked."  # of names of tensors in a file


@dataclass(frozen=True, eq=False)
class Parked:
    """Tokens that stopped before one layer, in order of token indices. One row."""

    layer: int  # the layer that they did not run through any more
    tokens: Layout  # width n
    hidden: torch.Tensor  # (1, n, hidden_size), the input of `layer`

    @property
    def places(self) -> torch.Tensor:
        """Token indices `(n,)`, rising."""
        return self.tokens.index[0]

    def where(self, stay: torch.Tensor) -> Parked:
        """Only the tokens for which `stay` `(n,)` holds. Copies, so that the memory of the others is freed."""
        if bool(stay.all()):
            return self
        columns = stay.nonzero().squeeze(1)
        tokens = self.tokens.take(columns.unsqueeze(0))
        return Parked(self.layer, tokens, self.hidden.index_select(1, columns))

    def newest(self, count: int) -> Parked:
        """The `count` tokens that were read last."""
        return self.where(torch.arange(self.tokens.width, device=self.hidden.device) >= self.tokens.width - count)

    def joined(self, other: Parked) -> Parked:
        """These and `other`, which stopped before the same layer or have come as far by now, by token index."""
        tokens, order = self.tokens.merged(other.tokens)
        return Parked(other.layer, tokens, torch.cat([self.hidden, other.hidden], 1).index_select(1, order))

    def moved(self, index: torch.Tensor, positions: torch.Tensor) -> Parked:
        """The same tokens, with the new position `(n,)` of each token index in `index` `(n,)`, sorted."""
        column = torch.searchsorted(index.to(self.places.device), self.places)
        moved = positions.to(self.places.device)[column].unsqueeze(0)
        return Parked(self.layer, self.tokens.moved(moved), self.hidden)

    def nbytes(self) -> int:
        """Bytes held."""
        parts = (self.hidden, self.tokens.index, self.tokens.positions, self.tokens.valid)
        return sum(part.numel() * part.element_size() for part in parts)


class Parking:
    """At most `room` parked tokens of one sequence; the ones read longest ago leave first."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._by_layer: dict[int, Parked] = {}

    def __iter__(self) -> Iterator[Parked]:
        return iter([self._by_layer[layer] for layer in sorted(self._by_layer)])

    def __len__(self) -> int:
        """Tokens parked."""
        return sum(parked.tokens.width for parked in self)

    def places(self) -> list[int]:
        """Token indices of all parked tokens, rising."""
        return sorted(place for parked in self for place in parked.places.tolist())

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(parked.nbytes() for parked in self)

    def add(self, groups: Iterable[Parked]) -> None:
        """Park more tokens, and remove the oldest where there is no room."""
        for parked in groups:
            before = self._by_layer.get(parked.layer)
            self._by_layer[parked.layer] = parked if before is None else before.joined(parked)
        if len(self) > self.room:
            places = self.places()
            first = places[-self.room] if self.room else places[-1] + 1
            self.keep(lambda parked: parked.places >= first)

    def keep(self, stay: Callable[[Parked], torch.Tensor]) -> None:
        """Remove all tokens for which `stay`, `(n,)` bool for each group of n tokens, does not hold."""
        kept = [parked.where(stay(parked)) for parked in self]
        self._by_layer = {parked.layer: parked for parked in kept if parked.tokens.width}

    def within(self, start: int, end: int) -> list[Parked]:
        """The parked tokens with indices `start` to `end - 1`, by layer."""
        found = [parked.where((parked.places >= start) & (parked.places < end)) for parked in self]
        return [parked for parked in found if parked.tokens.width]

    def move(self, index: torch.Tensor, positions: torch.Tensor) -> None:
        """Give the tokens with indices `index` `(n,)`, sorted, new positions `(n,)`; all parked ones are among them."""
        self._by_layer = {parked.layer: parked.moved(index, positions) for parked in self}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything parked, by names that `restore` knows; none of the tensors share memory."""
        found: dict[str, torch.Tensor] = {}
        for parked in self:
            parts = {"hidden": parked.hidden, "index": parked.tokens.index, "positions": parked.tokens.positions}
            found |= {f"{PREFIX}{parked.layer}.{name}": part.contiguous().clone() for name, part in parts.items()}
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Park what `tensors` gave, as far as there is room; other names are left alone.

        Raises:
            KeyError, ValueError: damaged names.
        """
        layers = sorted(int(name.split(".")[1]) for name in tensors if name.startswith(PREFIX) and "hidden" in name)
        for layer in layers:
            hidden, index, positions = (tensors[f"{PREFIX}{layer}.{name}"] for name in ("hidden", "index", "positions"))
            tokens = Layout(index, positions, torch.ones_like(index, dtype=torch.bool), True)
            self.add([Parked(layer, tokens, hidden)])

    def clear(self) -> None:
        """Remove all parked tokens."""
        self._by_layer = {}

    def copy(self) -> Parking:
        """An independent parking with the same tokens; the states themselves never change and are shared."""
        twin = Parking(self.room)
        twin._by_layer = dict(self._by_layer)
        return twin
