"""Predicted speed-ups against sums done by hand."""

from __future__ import annotations

import pytest

from erecap.cost.flops import ModelShape
from erecap.cost.model import CostModel
from erecap.tokens.scoring.schedule import scheduled_counts
from erecap.tuning.speed import SpeedModel

# 4 layers; projections 2 * 8 * (2 * 8 + 2 * 4) = 384 FLOPs a token, MLP 2 * 3 * 8 * 16 = 768; attention 4 * 8 a pair.
SHAPE = ModelShape(4, hidden_size=8, intermediate_size=16, heads=2, kv_heads=1, head_dim=4, vocab_size=10)
HEAD = 2 * 8 * 10
DECODE = (0.0,) * 8


def test_flops_of_a_known_schedule() -> None:
    # One stage at layer 1 keeps 5 of 10 tokens, another at layer 3 keeps 3 (2.5, rounded up).
    kept = [10, 5, 5, 3]
    assert scheduled_counts(10, 4, (1, 3), 0.5) == kept
    full = 4 * (10 * 1152 + 32 * 55) + HEAD
    pruned = 23 * 1152 + 32 * (55 + 15 + 15 + 6) + HEAD
    model = SpeedModel(SHAPE)
    assert model.price(kept) == pruned and model.price([10] * 4) == full
    assert model.speed_up([kept], [10]) == pytest.approx(full / pruned)
    # Several prompts: their times add up.
    assert model.speed_up([kept, [4] * 4], [10, 4]) == pytest.approx(
        (full + model.price([4] * 4)) / (pruned + model.price([4] * 4))
    )
    # The newest token's query meets all keys of the layer before: 2 * 8 FLOPs each, at both stages.
    assert SpeedModel(SHAPE, "attention").price(kept) == pruned + 16 * (10 + 5)
    # A learned pruner scores all tokens that reach a stage: 8 to 2 and 2 to 1.
    assert SpeedModel(SHAPE, "learned").price(kept) == pruned + 2 * (8 * 2 + 2) * (10 + 5)
    assert model.source == "FLOPs"


def test_the_published_schedule() -> None:
    shape = ModelShape(28, 3584, 18944, 28, 4, 128, 1)
    stages = tuple(range(4, 26, 3))
    # At few tokens a product counts, and attention hardly does: 2.64 times, as eight stages at 0.7 allow.
    kept = scheduled_counts(1000, 28, stages, 0.7)
    assert SpeedModel(shape).speed_up([kept], [1000]) == pytest.approx(2.64, abs=0.05)


def test_a_fitted_model_gives_each_layer_its_share() -> None:
    cost = CostModel(prefill=(8.0, 0.4, 0.8, 0.7, 0.001), decode=DECODE)
    model = SpeedModel(SHAPE, cost=cost)

    def pass_of(tokens: int) -> float:  # nothing is stored, so the term of stored tokens is none
        return 8.0 + 0.4 * tokens + 0.8 * max(tokens - 32, 0) + 0.001 * tokens * tokens / 2

    assert model.price([100] * 4) == pytest.approx(pass_of(100)) == pytest.approx(cost.predict_prefill(100, 0))
    kept = [100, 50, 50, 20]
    assert model.price(kept) == pytest.approx((pass_of(100) + 2 * pass_of(50) + pass_of(20)) / 4)
    assert model.source == "calibration"
    ranking = SpeedModel(SHAPE, "attention", cost)
    extra = 16 * (100 + 50) * (0.4 + 0.8) / (1152 * 4)
    assert ranking.price(kept) == pytest.approx(model.price(kept) + extra)


@pytest.mark.parametrize("cost", [None, CostModel(prefill=(8.0, 0.4, 0.8, 0.7, 0.001), decode=DECODE)])
@pytest.mark.parametrize("scorer", ["recency", "attention"])
def test_nothing_dropped_is_nothing_gained(cost: CostModel | None, scorer: str) -> None:
    model = SpeedModel(SHAPE, scorer, cost)

    def gain(stages: tuple[int, ...], keep: float) -> float:
        return model.speed_up([scheduled_counts(n, 4, stages, keep) for n in (77, 300)], [77, 300])

    assert gain((1, 2, 3), 1.0) == pytest.approx(1.0)
    assert gain((1, 2), 0.5) > gain((2,), 0.5) > 1.0


def test_counts_that_grow_are_refused() -> None:
    with pytest.raises(ValueError, match="layer 1 cannot read 11 tokens"):
        SpeedModel(SHAPE).price([10, 11, 11, 11])
