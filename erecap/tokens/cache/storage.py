"""Storage of one layer's keys and values that grows without copying everything at every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from erecap.tokens.cache.shared_storage import MIN_GROWTH, TAIL_GROWTH, Pair, SharingLayer, roomy


class KVLayer(SharingLayer):
    """Keys and values in buffers with room to spare; the stock layer concatenates, copying all of them per token.

    `keys` and `values` are views `(batch, kv_heads, length, head_dim)` of what is stored, or copies where it is stored
    in several pieces (see `SharingLayer`).
    """

    @property
    def keys(self) -> torch.Tensor | None:  # type: ignore[override]
        """Stored keys; None before the first update."""
        if self.front:
            return torch.cat([keys for keys, _ in self.pieces()], 2)
        return None if self._keys is None else self._keys[:, :, : self.length]

    @keys.setter
    def keys(self, tensor: torch.Tensor | None) -> None:
        self.own()
        self._keys, self.length = tensor, 0 if tensor is None else tensor.shape[-2]
        self.block = None

    @property
    def values(self) -> torch.Tensor | None:  # type: ignore[override]
        """Stored values; None before the first update."""
        if self.front:
            return torch.cat([values for _, values in self.pieces()], 2)
        return None if self._values is None else self._values[:, :, : self.length]

    @values.setter
    def values(self, tensor: torch.Tensor | None) -> None:
        self.own()
        self._values, self.length = tensor, 0 if tensor is None else tensor.shape[-2]
        self.block = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values `(batch, kv_heads, tokens, head_dim)`; returns all that is stored, as one tensor each.

        These are views, or copies for the moment where it is stored in several pieces.
        """
        if self.shared:
            pieces = self.append(key_states, value_states)
            if len(pieces) == 1:
                return pieces[0]
            return torch.cat([keys for keys, _ in pieces], 2), torch.cat([values for _, values in pieces], 2)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        start, count = self.length, key_states.shape[-2]
        self.length = end = start + count
        if self.block is not None and self.block.shape[2] < end:
            self.block = None
        self._keys = _with_room(self._keys, key_states, start, end)
        self._values = _with_room(self._values, value_states, start, end)
        # `narrow`, because a slice of every axis is an operation of its own, and this runs for each layer and token.
        self._keys.narrow(2, start, count).copy_(key_states)
        self._values.narrow(2, start, count).copy_(value_states)
        return self._keys.narrow(2, 0, end), self._values.narrow(2, 0, end)

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[Pair, ...]:
        """As `update`; returns views of all that is stored, in as many pieces as there are buffers."""
        if self.shared:
            self.make_room(key_states.shape[-2])
        if not self.shared:
            return (self.update(key_states, value_states),)
        assert self._keys is not None and self._values is not None
        place, count = self.length - self.start, key_states.shape[-2]
        self._keys.narrow(2, place, count).copy_(key_states)
        self._values.narrow(2, place, count).copy_(value_states)
        self.length += count
        return self.pieces()

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.length

    def select(self, columns: torch.Tensor) -> None:
        """Keep the stored tokens `columns` `(kept,)`, in that order, and free the room of the others."""
        # Both copies before either is put in place: memory may run out at the second.
        if self.front:
            keys = self.keys.index_select(2, columns)  # type: ignore[union-attr]
            values = self.values.index_select(2, columns)  # type: ignore[union-attr]
        else:
            keys = self._keys.index_select(2, columns)  # type: ignore[union-attr]
            values = self._values.index_select(2, columns)  # type: ignore[union-attr]
        self.put(keys, values, len(columns))

    def merged(
        self, keys: torch.Tensor, values: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The stored tokens and `keys`, `values` `(batch, kv_heads, n, head_dim)`, put in order; changes nothing.

        Args:
            order: `(length + n,)`: for each column of the result, the column it comes from.
        """
        return (
            torch.cat([self.keys, keys], 2).index_select(2, order),  # type: ignore[list-item]
            torch.cat([self.values, values], 2).index_select(2, order),  # type: ignore[list-item]
        )

    def replace_keys(self, keys: torch.Tensor) -> None:
        """Write `keys` `(batch, kv_heads, length, head_dim)` over the stored ones; forks keep the old ones."""
        self.own()
        self._keys[:, :, : self.length] = keys  # type: ignore[index]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest `-tokens_to_remove` tokens."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens to remove, got {tokens_to_remove}")
        self.truncate(max(0, self.length + tokens_to_remove))


def join(layers: Sequence[KVLayer], room: int, like: torch.Tensor) -> torch.Tensor:
    """Move the buffers of `layers`, which store the same tokens of one row, into one tensor with room for `room` more.

    What is true of all layers then takes one operation instead of one or two per layer: on an accelerator, starting
    an operation costs more than moving a few tokens.

    Args:
        like: `(kv_heads, *, head_dim)`, of the wanted kind, for layers that store nothing yet.

    Returns:
        `(2 * layers, kv_heads, capacity, head_dim)`: keys and values of the first layer, of the second, and so on. The
        buffers of the layers are views of it. What the layers share with others stands before it, see `fronts`.
    """
    for layer in layers:
        if layer.shared:
            layer.make_room(room)
    if any(layer.start != layers[0].start for layer in layers):  # another thread was appending to the same buffers
        for layer in layers:
            layer.own()
    start, used = layers[0].start, layers[0].length - layers[0].start
    block = layers[0].block
    if block is not None and block.shape[2] >= used + room and all(layer.block is block for layer in layers):
        return block
    heads, _, dim = like.shape
    capacity = used + room + TAIL_GROWTH if start else roomy(used + room)
    block = like.new_empty(2 * len(layers), heads, capacity, dim)
    if used:
        stored = [tensor[0] for layer in layers for tensor in layer.pieces()[-1]]
        block[:, :, :used] = torch.stack(stored)
    _house(layers, block, start + used)
    return block


def alike(layers: Sequence[KVLayer]) -> bool:
    """Return True if `layers`, which store tokens of one row, have keys of one shape, as `join` wants them."""
    return len({layer.pieces()[-1][0].shape[1:4:2] for layer in layers}) == 1


def joinable(layers: Sequence[KVLayer]) -> bool:
    """Return True if `join` copies nothing that `layers`, which store the same tokens, share with other caches."""
    if not any(layer.shared for layer in layers):
        return True
    first = layers[0]
    return all(
        layer.start == first.start
        and len(layer.front) == len(first.front)
        and (layer.claim is None) == (first.claim is None)
        and (layer.claim is None or (layer.block is first.block and first.block is not None))
        and all(
            own.block is other.block is not None and own.length == other.length
            for own, other in zip(layer.front, first.front, strict=True)
        )
        for layer in layers
    )


def fronts(layers: Sequence[KVLayer]) -> list[tuple[torch.Tensor, ...]]:
    """The tokens that `joinable` layers share with others and store before their own block.

    Returns:
        For each piece, in order, a view `(2, kv_heads, tokens, head_dim)` of the keys and values of each layer.
    """
    return [
        piece.block.unflatten(0, (-1, 2)).narrow(3, 0, piece.length).unbind(0)  # type: ignore[union-attr]
        for piece in layers[0].front
    ]


def select_together(layers: Sequence[KVLayer], columns: torch.Tensor) -> bool:
    """Apply `KVLayer.select` to all `layers` in one operation; return False, with nothing done, if not joined."""
    block = layers[0].block if layers else None
    if block is None or not all(layer.block is block and layer.length == layers[0].length for layer in layers):
        return False
    if block.shape[0] != 2 * len(layers) or any(layer.front for layer in layers):
        return False
    kept = len(columns)
    smaller = block.new_empty(*block.shape[:2], kept + MIN_GROWTH, block.shape[3])
    smaller[:, :, :kept] = block.index_select(2, columns)
    _house(layers, smaller, kept)
    return True


def _house(layers: Sequence[KVLayer], block: torch.Tensor, length: int) -> None:
    rows = block.unsqueeze(1).unbind(0)
    for layer, keys, values in zip(layers, rows[::2], rows[1::2], strict=True):
        shared = bool(layer.front)
        layer._keys, layer._values, layer.length, layer.block, layer.claim, layer.shared = (
            keys, values, length, block, None, shared
        )  # fmt: skip
        layer.dtype, layer.device, layer.is_initialized = block.dtype, block.device, True


def _with_room(buffer: torch.Tensor | None, like: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """`buffer` if it holds `needed` tokens, else a larger copy of its first `used` tokens."""
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    batch, heads, _, dim = like.shape
    larger = like.new_empty(batch, heads, roomy(needed), dim)
    if buffer is not None:
        larger[:, :, :used] = buffer[:, :, :used]
    return larger


def plain_cache(config: Any) -> DynamicCache:
    """An unpruned cache for a model with this configuration, on its fastest path.

    Models with sliding windows keep the stock layers, which store no more than the window.
    """
    stock = DynamicCache(config=config)
    if any(type(layer) is not DynamicLayer for layer in stock.layers):
        return stock
    stock.layers = [KVLayer() for _ in stock.layers]
    return stock
