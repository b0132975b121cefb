"""Storage of one layer's keys and values that grows without copying everything at every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Room is added in steps of a quarter, at least this many tokens, so that copying stays a small share of writing.
MIN_GROWTH = 128


class KVLayer(DynamicLayer):
    """Keys and values in buffers with room to spare; the stock layer concatenates, copying all of them per token.

    `keys` and `values` are views `(batch, kv_heads, length, head_dim)` of what is stored.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        self._block: torch.Tensor | None = None  # where its buffers are views of, see `join`
        self.length = 0
        super().__init__(**kwargs)

    @property
    def keys(self) -> torch.Tensor | None:  # type: ignore[override]
        """Stored keys, a view; None before the first update."""
        return None if self._keys is None else self._keys[:, :, : self.length]

    @keys.setter
    def keys(self, tensor: torch.Tensor | None) -> None:
        self._keys, self.length = tensor, 0 if tensor is None else tensor.shape[-2]
        self._block = None

    @property
    def values(self) -> torch.Tensor | None:  # type: ignore[override]
        """Stored values, a view; None before the first update."""
        return None if self._values is None else self._values[:, :, : self.length]

    @values.setter
    def values(self, tensor: torch.Tensor | None) -> None:
        self._values, self.length = tensor, 0 if tensor is None else tensor.shape[-2]
        self._block = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values `(batch, kv_heads, tokens, head_dim)`; returns views of all that is stored."""
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        start, count = self.length, key_states.shape[-2]
        self.length = end = start + count
        if self._block is not None and self._block.shape[2] < end:
            self._block = None
        self._keys = _with_room(self._keys, key_states, start, end)
        self._values = _with_room(self._values, value_states, start, end)
        # `narrow`, because a slice of every axis is an operation of its own, and this runs for each layer and token.
        self._keys.narrow(2, start, count).copy_(key_states)
        self._values.narrow(2, start, count).copy_(value_states)
        return self._keys.narrow(2, 0, end), self._values.narrow(2, 0, end)

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.length

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens; their storage stays where it is."""
        self.length = length

    def select(self, columns: torch.Tensor) -> None:
        """Keep the stored tokens `columns` `(kept,)`, in that order, and free the room of the others."""
        # Both copies before either is put in place: memory may run out at the second.
        keys = self._keys.index_select(2, columns)  # type: ignore[union-attr]
        values = self._values.index_select(2, columns)  # type: ignore[union-attr]
        self.keys, self.values = keys, values

    def merged(
        self, keys: torch.Tensor, values: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is stored followed by `keys`, `values` `(batch, kv_heads, n, head_dim)`, put in order; changes nothing.

        Args:
            order: `(length + n,)`: for each column of the result, the column it comes from.
        """
        return (
            torch.cat([self.keys, keys], 2).index_select(2, order),  # type: ignore[list-item]
            torch.cat([self.values, values], 2).index_select(2, order),  # type: ignore[list-item]
        )

    def replace_keys(self, keys: torch.Tensor) -> None:
        """Write `keys` `(batch, kv_heads, length, head_dim)` over the stored ones."""
        self._keys[:, :, : self.length] = keys  # type: ignore[index]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest `-tokens_to_remove` tokens."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens to remove, got {tokens_to_remove}")
        self.length = max(0, self.length + tokens_to_remove)


def join(layers: Sequence[KVLayer], room: int, like: torch.Tensor) -> torch.Tensor:
    """Move the buffers of `layers`, which store the same tokens of one row, into one tensor with room for `room` more.

    What is true of all layers then takes one operation instead of one or two per layer: on an accelerator, starting
    an operation costs more than moving a few tokens.

    Args:
        like: `(kv_heads, *, head_dim)`, of the wanted kind, for layers that store nothing yet.

    Returns:
        `(2 * layers, kv_heads, capacity, head_dim)`: keys and values of the first layer, of the second, and so on. The
        buffers of the layers are views of it.
    """
    used = layers[0].length
    block = layers[0]._block
    if block is not None and block.shape[2] >= used + room and all(layer._block is block for layer in layers):
        return block
    heads, _, dim = like.shape
    capacity = max(used + room + MIN_GROWTH, (used + room) * 5 // 4)
    block = like.new_empty(2 * len(layers), heads, capacity, dim)
    if used:
        stored = [tensor[0] for layer in layers for tensor in (layer.keys, layer.values)]  # type: ignore[index]
        block[:, :, :used] = torch.stack(stored)
    _house(layers, block, used)
    return block


def select_together(layers: Sequence[KVLayer], columns: torch.Tensor) -> bool:
    """As `KVLayer.select` for all `layers`, in one operation; False, and nothing done, where they are not joined."""
    block = layers[0]._block if layers else None
    if block is None or not all(layer._block is block and layer.length == layers[0].length for layer in layers):
        return False
    if block.shape[0] != 2 * len(layers):
        return False
    kept = len(columns)
    smaller = block.new_empty(*block.shape[:2], kept + MIN_GROWTH, block.shape[3])
    smaller[:, :, :kept] = block.index_select(2, columns)
    _house(layers, smaller, kept)
    return True


def _house(layers: Sequence[KVLayer], block: torch.Tensor, length: int) -> None:
    rows = block.unsqueeze(1).unbind(0)
    for layer, keys, values in zip(layers, rows[::2], rows[1::2], strict=True):
        layer._keys, layer._values, layer.length, layer._block = keys, values, length, block
        layer.dtype, layer.device, layer.is_initialized = block.dtype, block.device, True


def _with_room(buffer: torch.Tensor | None, like: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """`buffer` if it holds `needed` tokens, else a larger copy of its first `used` tokens."""
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    batch, heads, _, dim = like.shape
    larger = like.new_empty(batch, heads, max(needed + MIN_GROWTH, needed * 5 // 4), dim)
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
