"""FLOP counts against sums done by hand, and the two published ceilings."""

from __future__ import annotations

import pytest

from erecap.cost.flops import (
    ModelShape,
    attention_scorer_flops,
    prefill_flops,
    schedule_ceiling,
    time_weighted_ceiling,
)

TINY = ModelShape(layers=2, hidden_size=8, intermediate_size=16, heads=2, kv_heads=1, head_dim=4, vocab_size=32)


def shape_of(layers: int) -> ModelShape:
    return ModelShape(layers, 576, 1536, 9, 3, 64, 49152)


def counts_of(layers: int, tokens: float, keep: float = 0.7) -> list[float]:
    """Tokens that each layer reads when stages at range(4, L - 2, 3) drop before their layer runs."""
    stages = set(range(4, layers - 2, 3))
    counts, left = [], tokens
    for layer in range(layers):
        left *= keep if layer in stages else 1
        counts.append(left)
    return counts


@pytest.mark.parametrize(("layers", "linear", "attention"), [(28, 2.64, 4.07), (30, 2.80, 4.36)])
def test_eight_stages_at_keep_07(layers: int, linear: float, attention: float) -> None:
    assert len(range(4, layers - 2, 3)) == 8
    tokens = 1e7  # long, so that the diagonal of causal attention does not show in the second decimal
    ceiling = schedule_ceiling(shape_of(layers), counts_of(layers, tokens), [tokens] * layers)
    assert round(ceiling.linear, 2) == linear
    assert round(ceiling.attention, 2) == attention
    assert ceiling.linear < ceiling.total < ceiling.attention


def test_parts_by_hand() -> None:
    flops = prefill_flops(TINY, [3, 2], scorer_flops=5)
    # q and o: 8x8 each, k and v: 8x4 each -> 192 weights; MLP: 3 x 8 x 16 = 384; two FLOPs a weight and token
    assert flops.linear == 2 * (192 + 384) * (3 + 2)
    # 6 and 3 causal pairs, 2 heads x 4 wide, two products of two FLOPs each
    assert flops.attention == 4 * 8 * (6 + 3)
    assert flops.head == 2 * 8 * 32
    assert flops.total == flops.linear + flops.attention + flops.head + 5


def test_no_pruning_is_a_ceiling_of_one() -> None:
    ceiling = schedule_ceiling(TINY, [7, 7], [7, 7])
    assert (ceiling.linear, ceiling.attention, ceiling.total) == (1, 1, 1)


def test_scorer_lowers_the_ceiling() -> None:
    cost = attention_scorer_flops(TINY, [10, 5])
    assert cost == 2 * 10 * 8  # ten keys, two heads of width four
    assert attention_scorer_flops(TINY, [10, 10]) == 0
    free, paid = schedule_ceiling(TINY, [10, 5], [10, 10]), schedule_ceiling(TINY, [10, 5], [10, 10], cost)
    assert paid.total < free.total
    assert (paid.linear, paid.attention) == (free.linear, free.attention)


@pytest.mark.parametrize("counts", [[3], [3, 2, 1], [3, 4], [3, -1], [float("nan"), 1]])
def test_impossible_counts_are_refused(counts: list[float]) -> None:
    with pytest.raises(ValueError, match=r"token"):
        prefill_flops(TINY, counts)


def test_reading_nothing_and_empty_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="reads none"):
        schedule_ceiling(TINY, [0, 0], [3, 3])
    with pytest.raises(ValueError, match=r"ModelShape.layers must be at least 1, got 0"):
        ModelShape(0, 1, 1, 1, 1, 1, 1)


def test_time_weighted_ceiling() -> None:
    full, pruned = [4000.0] * 30, counts_of(30, 4000)
    shape = shape_of(30)
    scorer = attention_scorer_flops(shape, pruned)
    parts, ceiling = prefill_flops(shape, full), schedule_ceiling(shape, pruned, full, scorer)
    same = time_weighted_ceiling(shape, pruned, full, parts.attention / parts.total, scorer)
    assert same == pytest.approx(ceiling.total)  # weighted by FLOPs it is the FLOP ceiling
    by_share = [time_weighted_ceiling(shape, pruned, full, share) for share in (0, 0.3, 0.6, 1)]
    assert by_share == sorted(by_share) and by_share[-1] == pytest.approx(ceiling.attention)
    assert by_share[0] < ceiling.linear  # the head is read by both and cannot be saved
    # By hand, two layers of width one: counts (3, 3) to (3, 1). Attention 12 pairs to 7; linear and head 14 * 6 + 2 to
    # 14 * 4 + 2. With half of the time in each: 1 / (0.5 * 7 / 12 + 0.5 * 58 / 86).
    flat = ModelShape(2, 1, 1, 1, 1, 1, 1)
    assert time_weighted_ceiling(flat, [3, 1], [3, 3], 0.5) == pytest.approx(1 / (3.5 / 12 + 29 / 86))
    assert time_weighted_ceiling(shape, pruned, full, 0.3, scorer) < by_share[1]
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        time_weighted_ceiling(shape, pruned, full, 1.5)
