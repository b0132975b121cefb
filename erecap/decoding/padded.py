"""Attention of several short reads in one call per layer, for accelerators.

On an accelerator, starting a small operation takes longer than running it. Attention of one part after the other, layer
by layer, would take most of the time of a shared forward call. So this module gathers the stored keys of all parts side
by side, padded to the longest, and attends to them in one call. It writes the new keys and values once, after the last
layer, for all layers together (`PrunedCache.joined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F

from erecap.tokens.cache.storage import fronts, joinable
from erecap.tokens.ragged import Part
from erecap.tokens.scoring.probe import last_query_mass

FEW_TOKENS = 64  # longer reads would cost the others too much padding
ALIGNED = 16  # columns of a mask that fused kernels take without copying it


def fits(part: Part) -> bool:
    """Return True if this part can be padded together with others: few tokens, and all layers store the same."""
    return len(part.ids) <= FEW_TOKENS and part.cache.shares_layout and joinable(part.cache.layers)


class PaddedAttention:
    """One forward call's attention over those of its parts that fit; their reading has begun.

    Args:
        parts: all parts of the call.
        shared: numbers of those that `fits` says yes to, in order; at least one.
        heads: query heads, and key heads.
        scale: of the products before the softmax.
        like: `(kv_heads, *, head_dim)`, of the kind that is stored.

    Attributes:
        shared: as given.
    """

    def __init__(
        self, parts: Sequence[Part], shared: Sequence[int], heads: tuple[int, int], scale: float, like: torch.Tensor
    ) -> None:
        begins = [0, *accumulate(len(part.ids) for part in parts)]
        self.shared = frozenset(shared)
        self._rows = [begins[number] for number in shared]  # where the tokens of each begin among all
        self._parts = parts = [parts[number] for number in shared]
        self._heads, self._kv_heads = heads
        self._scale = scale
        self._counts = [len(part.ids) for part in parts]
        self._olds = [part.cache.layers[0].length if part.cache.layers else 0 for part in parts]
        self._blocks = [part.cache.joined(count, like) for part, count in zip(parts, self._counts, strict=True)]
        # (2, kv_heads, stored, head_dim) of each layer and part
        # and, before them, of what it shares with forks
        self._starts = [part.cache.layers[0].start for part in parts]
        stored: list[tuple[torch.Tensor, ...]] = []
        for part, block, old, start in zip(parts, self._blocks, self._olds, self._starts, strict=True):
            stored += fronts(part.cache.layers)
            stored.append(block.unflatten(0, (-1, 2)).narrow(3, 0, old - start).unbind(0))
        self._stored = list(zip(*stored, strict=True))
        self._new: list[torch.Tensor] = []
        longest = max(old + count for old, count in zip(self._olds, self._counts, strict=True))
        self._keys = -(-longest // ALIGNED) * ALIGNED
        self._queries = max(self._counts)
        self._place(like)

    def _place(self, like: torch.Tensor) -> None:
        """Make the indices and the mask that all layers share."""
        size, groups, device = len(self._parts), self._heads // self._kv_heads, like.device
        old, count, row = torch.tensor([self._olds, self._counts, self._rows], device=device).unsqueeze(2)
        key = torch.arange(self._keys, device=device)
        query = torch.arange(self._queries, device=device)
        # Columns stand in the order: stored ones of all parts, then all that is read.
        column = torch.where(key < old, old.cumsum(0) - old + key, sum(self._olds) + row + key - old)
        self._column = torch.where(key < old + count, column, 0).view(-1)
        # A row of padding sees the first column alone, so that no row sees nothing.
        real = (query < count).unsqueeze(2)
        sees = torch.where(real, key <= (old + query).unsqueeze(2), key == 0)
        bias = torch.zeros(sees.shape, dtype=like.dtype, device=device).masked_fill_(~sees, float("-inf"))
        self._bias = bias.repeat(1, groups, 1).unsqueeze(1).expand(-1, self._kv_heads, -1, -1)
        # Rows of (tokens * heads, head_dim), in the order (part, key head, head of its group, query).
        token = torch.where(query < count, row + query, row).view(size, 1, -1)
        head = torch.arange(self._heads, device=device).view(1, -1, 1)
        self._asked = (token * self._heads + head).view(-1)
        # And back: rows of the answer in the order (token, head). Chosen here, because a device would make us wait.
        places = torch.arange(size * self._heads * self._queries).view(size, self._heads, self._queries)
        answered = [places[number, :, :tokens].T.reshape(-1) for number, tokens in enumerate(self._counts)]
        self._answered = torch.cat(answered).to(device)

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of `layer`.

        Args:
            query: `(tokens, heads, head_dim)`; `key`, `value`: `(kv_heads, tokens, head_dim)`, of all that is read,
                also of parts that are not here.

        Returns:
            `(tokens of the parts here, heads * head_dim)`, in the order of the parts.
        """
        new = torch.stack((key, value))
        self._new.append(new)
        dim = query.shape[-1]
        both = torch.cat([*self._stored[layer], new], 2).index_select(2, self._column)
        both = both.view(2, self._kv_heads, len(self._parts), self._keys, dim).transpose(1, 2)
        keys, values = both.unbind(0)
        rows = query.reshape(-1, dim).index_select(0, self._asked)
        rows = rows.view(len(self._parts), self._kv_heads, -1, dim)
        out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=self._bias, scale=self._scale)
        for number, part in enumerate(self._parts):
            if part.collect is not None:
                self._collect(part, number, layer, query, keys)
        return out.reshape(-1, dim).index_select(0, self._answered).view(-1, self._heads * dim)

    def _collect(self, part: Part, number: int, layer: int, query: torch.Tensor, keys: torch.Tensor) -> None:
        last = query[self._rows[number] + self._counts[number] - 1].view(1, self._heads, 1, -1)
        own = keys[number : number + 1, :, : self._olds[number] + self._counts[number]]
        part.collect[layer] = last_query_mass(last, own, None, self._scale, None)  # type: ignore[index]

    def store(self) -> None:
        """Write what was read behind what is stored. All layers have run."""
        read = torch.stack(self._new).flatten(0, 1)  # (2 * layers, kv_heads, tokens, head_dim)
        places = [old - start for old, start in zip(self._olds, self._starts, strict=True)]
        for part, block, place, count, row in zip(
            self._parts, self._blocks, places, self._counts, self._rows, strict=True
        ):
            block[:, :, place : place + count] = read[:, :, row : row + count]
            part.cache.appended()
