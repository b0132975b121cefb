"""The fit recovers known coefficients, and never predicts that doing more takes less time."""

from __future__ import annotations

import random

import pytest

from erecap.cost.fitting import fit_non_negative, relative_errors
from erecap.cost.model import CostModel, decode_features, prefill_features

TRUE = CostModel(prefill=(40.0, 1.2, 0.3, 0.01, 2e-4), decode=(15.0, 0.004, 0.003, 6.0, 9.0, 1.1, 0.5, 1e-4))
STORED = (0, 256, 1024, 2048, 4096)


def noisy(value: float, draw: random.Random, by: float) -> float:
    return value * (1 + draw.uniform(-by, by))


@pytest.mark.parametrize("seed", range(4))
def test_known_coefficients_are_found_again(seed: int) -> None:
    draw = random.Random(seed)
    chunks = [(n, kv) for n in (8, 32, 128, 512) for kv in STORED]
    passes = [(n, kv) for n in (1, 3, 9, 20, 48) for kv in STORED]
    prefill = fit_non_negative(
        [prefill_features(*size) for size in chunks],
        [noisy(TRUE.predict_prefill(*size), draw, 0.03) for size in chunks],
    )
    decode = fit_non_negative(
        [decode_features(*size) for size in passes], [noisy(TRUE.predict_pass(*size), draw, 0.03) for size in passes]
    )
    found = CostModel(prefill=prefill, decode=decode)
    held_out = [(n, kv) for n in (16, 64, 300) for kv in (600, 1500, 3000)]
    errors = relative_errors(
        [found.predict_prefill(*s) for s in held_out], [TRUE.predict_prefill(*s) for s in held_out]
    )
    assert max(errors) < 0.04
    held_out = [(n, kv) for n in (1, 2, 6, 32) for kv in (600, 1500, 3000)]
    errors = relative_errors([found.predict_pass(*s) for s in held_out], [TRUE.predict_pass(*s) for s in held_out])
    assert max(errors) < 0.04
    assert prefill[0] == pytest.approx(40, rel=0.1) and decode[0] == pytest.approx(15, rel=0.05)


def test_without_noise_the_fit_is_exact() -> None:
    sizes = [(n, kv) for n in (8, 32, 128, 512) for kv in STORED]
    found = fit_non_negative([prefill_features(*s) for s in sizes], [TRUE.predict_prefill(*s) for s in sizes])
    assert found == pytest.approx(TRUE.prefill, rel=1e-6)


def test_a_coefficient_that_wants_to_be_negative_is_zero() -> None:
    # 10 - 0.5 x: the best line that does not fall is flat, at the mean that relative errors ask for.
    features = [(1.0, float(x)) for x in range(5)]
    flat, slope = fit_non_negative(features, [10 - 0.5 * x for x in range(5)])
    assert slope == 0 and 8 < flat < 10


def test_errors_count_relative_to_the_measurement() -> None:
    # Least squares of absolute errors would follow the large one: 1000.
    (scale,) = fit_non_negative([(1.0,), (100.0,)], [1.0, 200.0])
    assert scale == pytest.approx((1 + 1 / 2) / (1 + 1 / 4))


@pytest.mark.parametrize(
    ("features", "measured"), [([], []), ([(1.0,)], [0.0]), ([(1.0,)], [1.0, 2.0]), ([(float("nan"),)], [1.0])]
)
def test_what_cannot_be_fitted(features: list, measured: list) -> None:
    with pytest.raises(ValueError):
        fit_non_negative(features, measured)
