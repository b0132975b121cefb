"""Attention of short reads over stored keys and values, without copying them for grouped heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from erecap.tokens.cache.shared_storage import Pair

# Up to this many query rows (queries times heads of a group) plain matrix products beat the fused kernel on a CPU.
FEW_ROWS = 64


def fold_mask(mask: torch.Tensor, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """A visibility mask in the form that `grouped_attention` takes; the same for all layers with that mask.

    Args:
        mask: `(1, 1, queries, keys)` bool, True = visible; no row without a visible key.
        groups: query heads per key head.

    Returns:
        `(1, 1, groups * queries, keys)` additive, the queries repeated for each head of a group.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    return bias.repeat(1, 1, groups, 1)


def grouped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention where the heads of a group become rows of one product with their shared keys.

    Args:
        query: `(queries, heads, head_dim)`.
        key, value: `(1, kv_heads, keys, head_dim)`.
        mask: as from `fold_mask`; None: plain causal order among `queries == keys`, or a single query that sees all.
        scale: of the products before the softmax.

    Returns:
        `(queries, heads * head_dim)`.
    """
    count, heads, dim = query.shape
    kv_heads = key.shape[1]
    if count == 1:
        rows = query.view(1, kv_heads, heads // kv_heads, dim)
        return F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale).reshape(1, heads * dim)
    by_head = query.transpose(0, 1)
    if mask is None:
        out = F.scaled_dot_product_attention(
            by_head.unsqueeze(0), key, value, is_causal=True, scale=scale, enable_gqa=heads != kv_heads
        )[0]
    else:
        rows = by_head.reshape(1, kv_heads, heads // kv_heads * count, dim)
        if rows.shape[2] <= FEW_ROWS and not rows.is_cuda:
            bias = mask[0].expand(kv_heads, -1, -1)
            weights = torch.baddbmm(bias, rows[0], key[0].transpose(1, 2), alpha=scale).softmax(-1)
            out = torch.bmm(weights, value[0])
        else:
            out = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale)[0]
        out = out.reshape(heads, count, dim)
    return out.transpose(0, 1).reshape(count, heads * dim)


def split_attention(
    query: torch.Tensor, pieces: Sequence[Pair], mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """As `grouped_attention`, for keys and values in several pieces.

    Few queries on a CPU attend to the pieces one by one, and only their scores are joined. Elsewhere the pieces are
    joined for the moment, which costs little beside the rest.
    """
    count, heads, dim = query.shape
    kv_heads = pieces[0][0].shape[1]
    rows = query.transpose(0, 1).reshape(kv_heads, heads // kv_heads * count, dim)
    if rows.is_cuda or rows.shape[1] > FEW_ROWS:
        keys, values = (torch.cat(parts, 2) for parts in zip(*pieces, strict=True))
        return grouped_attention(query, keys, values, mask, scale)
    scores = torch.cat([torch.bmm(rows, keys[0].transpose(1, 2)) for keys, _ in pieces], 2).mul_(scale)
    if mask is not None:
        scores += mask[0]
    widths = [keys.shape[2] for keys, _ in pieces]
    shares = scores.softmax(-1).split(widths, 2)
    out = torch.stack([torch.bmm(share, values[0]) for share, (_, values) in zip(shares, pieces, strict=True)]).sum(0)
    return out.reshape(heads, count, dim).transpose(0, 1).reshape(count, heads * dim)
