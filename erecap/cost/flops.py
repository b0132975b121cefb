"""FLOPs of one prefill of a decoder, from the number of tokens that each layer reads.

One multiplication and one addition count as two FLOPs. Attention is causal: query i meets i + 1 keys. Operations that
are linear in the tokens and use no matrix are left out: norms, activations, rotary embedding, softmax.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that decide its FLOPs; all layers alike, gated MLP, grouped-query attention."""

    layers: int  # decoder layers
    hidden_size: int  # width of the residual stream
    intermediate_size: int  # width of the MLP, which has three matrices (gate, up, down)
    heads: int  # query heads
    kv_heads: int  # key and value heads
    head_dim: int  # width of one head
    vocab_size: int  # rows of the language-model head

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"ModelShape.{name} must be at least 1, got {value}")

    @property
    def linear_flops_per_token(self) -> int:
        """FLOPs of one layer's projections and MLP for one token."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projections = self.hidden_size * (2 * queries + 2 * keys)  # q and o, k and v
        return 2 * (projections + 3 * self.hidden_size * self.intermediate_size)

    def attention_flops(self, tokens: float) -> float:
        """FLOPs of one layer's causal attention among `tokens` tokens: queries by keys, weights by values."""
        return 2 * 2 * self.heads * self.head_dim * tokens * (tokens + 1) / 2


@dataclass(frozen=True)
class PrefillFlops:
    """FLOPs of one prefill, by part."""

    linear: float  # projections and MLP of all layers
    attention: float  # causal attention of all layers
    head: float  # language-model head, at the last position only
    scorer: float = 0.0  # ranking the tokens for pruning

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head + self.scorer


@dataclass(frozen=True)
class Ceiling:
    """The most times that a pruned prefill can be faster than the full one, if only FLOPs counted."""

    linear: float  # projections and MLP alone, head left out
    attention: float  # attention alone
    total: float  # everything, head and scorer included


def prefill_flops(shape: ModelShape, counts_per_layer: Sequence[float], scorer_flops: float = 0) -> PrefillFlops:
    """FLOPs of reading a prompt on an empty cache.

    `counts_per_layer` holds one number a layer: the tokens that reach it. A stage at layer l drops its tokens before
    layer l runs, so the count of layer l is the one after the drop.

    Raises ValueError if there is not one count a layer, or a count is negative or above the one of the layer before.
    """
    if len(counts_per_layer) != shape.layers:
        raise ValueError(f"need one token count a layer: {shape.layers} layers, {len(counts_per_layer)} counts")
    previous = float("inf")
    for layer, count in enumerate(counts_per_layer):
        if not 0 <= count <= previous:
            raise ValueError(
                f"layer {layer} cannot read {count} tokens: allowed is 0 to {previous} (what the layer before had)"
            )
        previous = count
    return PrefillFlops(
        linear=float(shape.linear_flops_per_token * sum(counts_per_layer)),
        attention=float(sum(shape.attention_flops(count) for count in counts_per_layer)),
        head=float(2 * shape.hidden_size * shape.vocab_size),
        scorer=float(scorer_flops),
    )


def attention_scorer_flops(shape: ModelShape, counts_per_layer: Sequence[float]) -> float:
    """FLOPs of ranking by the newest token's attention weights.

    Each stage multiplies one query with the keys of all tokens that are still there; the layer before computed both.
    A stage is a layer that reads fewer tokens than the layer before.
    """
    return float(
        sum(
            2 * before * shape.heads * shape.head_dim
            for before, after in itertools.pairwise(counts_per_layer)
            if after < before
        )
    )


def schedule_ceiling(
    shape: ModelShape,
    counts_per_layer: Sequence[float],
    full_counts: Sequence[float],
    scorer_flops: float = 0,
) -> Ceiling:
    """The most that a prefill with `counts_per_layer` can save against one with `full_counts`.

    Both hold one token count a layer, as in `prefill_flops`; for an unpruned prefill all are the prompt's length.
    Eight stages at keep 0.7 at layers `range(4, L - 2, 3)` give 2.64 (linear) and 4.07 (attention) on 28 layers.

    Raises ValueError as `prefill_flops` does, and if either side reads nothing.
    """
    if not any(counts_per_layer) or not any(full_counts):
        raise ValueError("a ceiling needs tokens on both sides, and one of them reads none")
    pruned = prefill_flops(shape, counts_per_layer, scorer_flops)
    full = prefill_flops(shape, full_counts)
    return Ceiling(
        linear=full.linear / pruned.linear,
        attention=full.attention / pruned.attention,
        total=full.total / pruned.total,
    )


def time_weighted_ceiling(
    shape: ModelShape,
    counts_per_layer: Sequence[float],
    full_counts: Sequence[float],
    attention_share: float,
    scorer_flops: float = 0,
) -> float:
    """The most times that a pruned prefill can be faster where attention and matrix products run at different FLOP/s.

    Each part of the full prefill's time shrinks at most as its FLOPs do: attention by the ratio of attention FLOPs, the
    rest (projections, MLP, head, and all that is linear in the tokens) by the ratio of linear FLOPs, to which the
    scorer is added. With the share that attention has of the full prefill's FLOPs this is `schedule_ceiling().total`.

    Args:
        attention_share: attention's share of the full prefill's time, 0 to 1, measured where it ran.

    Raises:
        ValueError: a share outside 0 to 1, or counts as in `schedule_ceiling`.
    """
    if not 0 <= attention_share <= 1:
        raise ValueError(f"attention's share of the time must be from 0 to 1, got {attention_share}")
    ceiling = schedule_ceiling(shape, counts_per_layer, full_counts, scorer_flops)
    pruned = prefill_flops(shape, counts_per_layer, scorer_flops)
    full = prefill_flops(shape, full_counts)
    rest = (pruned.linear + pruned.head + pruned.scorer) / (full.linear + full.head)
    return 1 / (attention_share / ceiling.attention + (1 - attention_share) * rest)
