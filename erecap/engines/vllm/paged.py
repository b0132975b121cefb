"""The paged cache of one layer of vLLM: where a token's numbers lie in a block, and how they are read and written.

Backends lay blocks out as their kernels want it; on a CPU the keys are packed for its instruction set. So the layout is
measured: the backend itself writes a pattern into a block of our own. What is written later goes through it as well.
"""

from __future__ import annotations

from typing import Any

import torch

BASE = 100  # digits of the pattern; each is exact in bfloat16


class PagedLayer:
    """Reads and writes tokens of one layer.

    Args:
        layer: vLLM's attention layer, with `impl` and `kv_cache`.
        blocks: blocks of its cache.
        block: tokens of one block.
        order: the layout, where it is known from a layer of the same kind.

    Raises:
        ValueError: the backend writes no such cache, or what it writes cannot be read back.
    """

    def __init__(self, layer: Any, blocks: int, block: int, order: torch.Tensor | None = None) -> None:
        self.layer, self.block = layer, block
        self.heads, self.dim = layer.impl.num_kv_heads, layer.impl.head_size
        cache = layer.kv_cache
        axes = [axis for axis, size in enumerate(cache.shape) if size == blocks]
        if not hasattr(layer.impl, "do_kv_cache_update") or not axes:
            raise ValueError(f"the connector cannot write the cache of {type(layer.impl).__name__}")
        self._axis = axes[0]
        self.order = self._measured() if order is None else order  # (block, 2 * heads * dim) of flat numbers of a block

    def _measured(self) -> torch.Tensor:
        cache = self.layer.kv_cache
        shape = list(cache.shape)
        shape[self._axis] = 1
        count = self.block * self.heads * self.dim
        pattern = torch.arange(count).view(self.block, self.heads, self.dim)
        found, valued = torch.zeros(2 * count, dtype=torch.long), torch.zeros(2 * count, dtype=torch.bool)
        for place in (1, BASE, BASE**2, BASE**3):
            scratch = _like(cache, shape)
            digit = (pattern // place % BASE + 1).to(cache.dtype).to(cache.device)
            slots = torch.arange(self.block, device=cache.device)
            self.layer.impl.do_kv_cache_update(self.layer, digit, -digit, scratch, slots)
            flat = scratch.movedim(self._axis, 0).reshape(-1).float().cpu()
            if len(flat) != 2 * count:
                raise ValueError(f"the cache of {type(self.layer.impl).__name__} holds more than keys and values")
            found += (flat.abs().round().long() - 1) * place
            valued = flat < 0
        order = torch.full((2, count), -1)
        spots = torch.arange(2 * count)
        order[valued.long(), found.clamp(0, count - 1)] = spots
        if bool((order < 0).any()):
            raise ValueError(f"the connector cannot read the cache of {type(self.layer.impl).__name__}")
        return order.view(2, self.block, -1).transpose(0, 1).reshape(self.block, -1)

    def read(self, blocks: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `(n, heads, dim)` of places `start` to `end` of a request with these `blocks`."""
        low, high = start // self.block, -(-end // self.block)
        cache = self.layer.kv_cache.movedim(self._axis, 0)
        flat = cache[blocks[low:high].to(cache.device)].reshape(high - low, -1)
        found = flat[:, self.order.reshape(-1).to(flat.device)].view((high - low) * self.block, 2, self.heads, self.dim)
        found = found[start - low * self.block : end - low * self.block]
        return found[:, 0], found[:, 1]

    def write(self, blocks: torch.Tensor, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write keys and values `(n, heads, dim)` to the places from `start` on."""
        cache = self.layer.kv_cache
        places = torch.arange(start, start + len(keys))
        slots = blocks[places // self.block] * self.block + places % self.block
        keys, values = (part.to(cache.device, cache.dtype).contiguous() for part in (keys, values))
        self.layer.impl.do_kv_cache_update(self.layer, keys, values, cache, slots.to(cache.device))


def _like(cache: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Zeros of that shape, whose dimensions lie in memory in the order of `cache`'s."""
    order = sorted(range(cache.ndim), key=lambda number: -cache.stride(number))
    made = torch.zeros([shape[number] for number in order], dtype=cache.dtype, device=cache.device)
    back = [order.index(number) for number in range(cache.ndim)]
    return made.permute(back)
