"""Storage of one layer that forks share: copy on write.

A fork holds the buffers of the cache that it was forked from, each up to a length of its own. Tokens that another
holder sees are never written to. The first holder that appends behind what all of them see does so in place; the
others go on in a small buffer of their own. A layer is then one or more shared pieces and its own buffer behind
them. When the other holders are gone, the pieces become one buffer again.

A fork that sees little of a buffer would keep the rest of it in memory, so it copies that little instead.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicLayer

# Room is added in steps of a quarter, at least this many tokens, so that copying stays a small share of writing.
MIN_GROWTH = 128
TAIL_GROWTH = 32  # the same for a fork's own tokens: many forks may append a few each
LEAST_SHARED = 128  # fewer tokens are copied: two buffers cost more time than so few tokens cost memory

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values


class Claim:
    """The part of a shared buffer that one holder sees or is about to write: its first `end` tokens.

    Args:
        end: as said.
        beside: the claim of another holder of the same buffer; None: this is the first.
    """

    def __init__(self, end: int, beside: Claim | None = None) -> None:
        self.end = end
        self._lock = threading.Lock() if beside is None else beside._lock  # holders may live in several threads
        self._all: weakref.WeakSet[Claim] = weakref.WeakSet() if beside is None else beside._all
        with self._lock:
            self._all.add(self)

    def alone(self) -> bool:
        """True if no other holder is left."""
        with self._lock:
            return len(self._all) == 1

    def extend(self, tokens: int) -> bool:
        """Claim `tokens` more; False, and nothing changed, where another holder sees or writes them."""
        with self._lock:
            if any(other.end > self.end for other in self._all if other is not self):
                return False
            self.end += tokens
            return True


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens before a layer's own buffer, in buffers that other layers hold as well."""

    keys: torch.Tensor  # (batch, kv_heads, capacity, head_dim)
    values: torch.Tensor
    length: int  # the first tokens of the buffers, those that this holder sees
    block: torch.Tensor | None  # where the buffers are views of, see `erecap.tokens.cache.storage.join`
    claim: Claim

    def held(self) -> Piece:
        """The same tokens for one more holder."""
        return Piece(self.keys, self.values, self.length, self.block, Claim(self.length, self.claim))

    def views(self) -> Pair:
        """Keys and values `(batch, kv_heads, length, head_dim)`."""
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)


class SharingLayer(DynamicLayer):
    """Storage of one layer, in buffers with room to spare, some of which other layers may hold.

    A layer that was never forked has one buffer for keys and one for values, and `shared` is False.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._keys: torch.Tensor | None = None  # the buffer that takes what is appended
        self._values: torch.Tensor | None = None
        self.block: torch.Tensor | None = None  # where its buffers are views of, see `storage.join`
        self.length = 0
        self.front: tuple[Piece, ...] = ()  # tokens before those of the last buffers
        self.start = 0  # how many these are
        self.claim: Claim | None = None  # on the last buffers; None: nobody else holds them
        self.shared = False  # whether there is a front or a claim
        super().__init__(**kwargs)

    def fork(self) -> Self:
        """A layer that stores the same, to go on independently."""
        twin = type(self)()
        if self._keys is None or self._values is None:
            return twin
        own = self.length - self.start
        twin._keys, twin._values = self._keys, self._values
        if _worth_sharing(own, self._keys):
            if self.claim is None:
                self.claim, self.shared = Claim(own), True
            twin.block, twin.claim = self.block, Claim(own, self.claim)
        else:
            twin._keys = resized(self._keys, own, own + TAIL_GROWTH)
            twin._values = resized(self._values, own, own + TAIL_GROWTH)
        twin.front, twin.start = tuple(piece.held() for piece in self.front), self.start
        twin.length, twin.shared = self.length, bool(twin.front) or twin.claim is not None
        twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
        return twin

    def own(self) -> None:
        """Store everything in buffers that no other layer holds, copying what they hold."""
        if not self.shared:
            return
        if self.claim is not None and self.claim.alone():
            self.claim = None
        if self.front or self.claim is not None:
            keys, values = (_joined(parts, self.length + TAIL_GROWTH) for parts in zip(*self.pieces(), strict=True))
            self.put(keys, values, self.length)
        self.shared = False

    def put(self, keys: torch.Tensor | None, values: torch.Tensor | None, length: int) -> None:
        """Store the first `length` tokens of these buffers and nothing else."""
        # One statement, without calls: an interrupt comes before it or after it.
        self._keys, self._values, self.length, self.front, self.start, self.claim, self.shared, self.block = (
            keys, values, length, (), 0, None, False, None
        )  # fmt: skip

    def pieces(self) -> tuple[Pair, ...]:
        """Keys and values of what is stored, in as many pieces as there are buffers, in order."""
        assert self._keys is not None and self._values is not None
        own = self.length - self.start
        last = (self._keys.narrow(2, 0, own), self._values.narrow(2, 0, own))
        return (*(piece.views() for piece in self.front), last)

    def make_room(self, count: int) -> None:
        """Make the last buffers ones that take `count` more tokens, where no other layer sees them."""
        assert self._keys is not None
        if self.claim is not None:
            if self.claim.alone():
                self.claim = None
            elif self.length - self.start + count > self._keys.shape[2] or not self.claim.extend(count):
                self.spill(count)
        if self.claim is None:
            while self.front and self.front[-1].claim.alone():
                self._fold(count)
            self._grow(count)
        self.shared = bool(self.front) or self.claim is not None

    def spill(self, count: int) -> None:
        """Go on behind the shared buffers in new ones with room for `count` tokens."""
        assert self._keys is not None and self._values is not None and self.claim is not None
        own = self.length - self.start
        keys, values = (resized(buffer, 0, count + TAIL_GROWTH) for buffer in (self._keys, self._values))
        self.claim.end = own
        front = (*self.front, Piece(self._keys, self._values, own, self.block, self.claim))
        self.front, self.start, self.claim, self.block, self._keys, self._values = (
            front, self.length, None, None, keys, values
        )  # fmt: skip

    def _fold(self, count: int) -> None:
        """Append the own tokens to the piece before them, which nobody else holds any more."""
        assert self._keys is not None and self._values is not None
        piece, own = self.front[-1], self.length - self.start
        keys, values = piece.keys, piece.values
        if keys.shape[2] < piece.length + own + count:
            keys, values = (resized(b, piece.length, roomy(piece.length + own + count)) for b in (keys, values))
        keys.narrow(2, piece.length, own).copy_(self._keys.narrow(2, 0, own))
        values.narrow(2, piece.length, own).copy_(self._values.narrow(2, 0, own))
        front, block = self.front[:-1], piece.block if keys is piece.keys else None
        self._keys, self._values, self.block, self.front, self.start = (
            keys, values, block, front, self.start - piece.length
        )  # fmt: skip

    def _grow(self, count: int) -> None:
        """Move the own tokens to larger buffers if need be; all tokens, once sharing saves less than half of them."""
        assert self._keys is not None and self._values is not None
        own = self.length - self.start
        if own + count <= self._keys.shape[2]:
            return
        if self.front and own + count >= self.start:
            needed = roomy(self.length + count)
            keys, values = (_joined(parts, needed) for parts in zip(*self.pieces(), strict=True))
            self.put(keys, values, self.length)
            return
        needed = max(own + count + TAIL_GROWTH, (own + count) * 5 // 4) if self.front else roomy(own + count)
        keys, values = (resized(buffer, own, needed) for buffer in (self._keys, self._values))
        self._keys, self._values, self.block = keys, values, None

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens; unshared storage stays where it is."""
        if not self.shared:
            self.length = length
            return
        while self.front and length <= self.start:
            piece, front = self.front[-1], self.front[:-1]
            self._keys, self._values, self.block, self.claim, self.front, self.start = (
                piece.keys, piece.values, piece.block, piece.claim, front, self.start - piece.length
            )  # fmt: skip
        self.length = length
        own = length - self.start
        if self.claim is not None:
            self.claim.end = own
            if not self.claim.alone() and not _worth_sharing(own, self._keys):
                keys, values = (resized(buffer, own, own + TAIL_GROWTH) for buffer in (self._keys, self._values))
                self._keys, self._values, self.block, self.claim = keys, values, None, None
        self.shared = bool(self.front) or self.claim is not None

    def reset(self) -> None:
        """Store nothing."""
        self.put(None, None, 0)
        super().reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder batch rows for beam search."""
        self.own()
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every batch row."""
        self.own()
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the batch rows `indices`."""
        self.own()
        super().batch_select_indices(indices)

    def held(self) -> list[tuple[torch.Tensor, int]]:
        """Each buffer with the tokens that this layer sees of it."""
        if self._keys is None or self._values is None:
            return []
        own = self.length - self.start
        shared = [(buffer, piece.length) for piece in self.front for buffer in (piece.keys, piece.values)]
        return [*shared, (self._keys, own), (self._values, own)]


def stored_bytes(layers: Iterable[SharingLayer]) -> int:
    """Bytes of keys and values that `layers` store, of one cache or of several; what they share counts once."""
    most: dict[int, int] = {}  # bytes seen of each buffer, by its address
    for layer in layers:
        for buffer, tokens in layer.held():
            seen = tokens * buffer.numel() // max(1, buffer.shape[2]) * buffer.element_size()
            most[buffer.data_ptr()] = max(seen, most.get(buffer.data_ptr(), 0))
    return sum(most.values())


def resized(buffer: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
    """A buffer of `capacity` tokens with the first `used` tokens of `buffer`."""
    batch, heads, _, dim = buffer.shape
    other = buffer.new_empty(batch, heads, capacity, dim)
    other[:, :, :used] = buffer[:, :, :used]
    return other


def roomy(needed: int) -> int:
    """Capacity of a buffer that must hold `needed` tokens now."""
    return max(needed + MIN_GROWTH, needed * 5 // 4)


def _joined(parts: Iterable[torch.Tensor], capacity: int) -> torch.Tensor:
    """A buffer of `capacity` tokens with those of `parts`."""
    parts = list(parts)
    batch, heads, _, dim = parts[0].shape
    buffer = parts[0].new_empty(batch, heads, capacity, dim)
    torch.cat(parts, 2, out=buffer.narrow(2, 0, sum(part.shape[2] for part in parts)))
    return buffer


def _worth_sharing(tokens: int, buffer: torch.Tensor | None) -> bool:
    """Return True if `buffer` should be shared for its first `tokens` tokens, instead of copying them."""
    return buffer is not None and tokens >= LEAST_SHARED and 2 * tokens >= buffer.shape[2]
