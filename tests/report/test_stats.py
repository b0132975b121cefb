"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from erecap.report.stats import bootstrap_mean, length_bins, mean, median, percentiles, rate


def test_percentiles_by_hand() -> None:
    found = percentiles([float(value) for value in range(101)])
    assert found is not None
    assert (found.n, found.mean, found.p50, found.p95, found.p99, found.max) == (101, 50, 50, 95, 99, 100)
    two = percentiles([10.0, 20.0])
    assert two is not None
    assert (two.p50, two.p95) == (15.0, pytest.approx(19.5))


def test_wilson_interval_by_hand() -> None:
    half = rate(5, 10)
    assert half is not None
    # (0.5 + z²/20 ± z·sqrt(0.025 + z²/400)) / (1 + z²/10) with z = 1.96
    assert (half.value, half.low, half.high) == (0.5, pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


def test_no_success_still_has_a_wide_interval() -> None:
    none, all_won = rate(0, 20), rate(20, 20)
    assert none is not None and all_won is not None
    assert (none.low, none.value) == (0.0, 0.0)
    assert none.high == pytest.approx(0.1611, abs=1e-4)  # z² / (n + z²)
    assert (all_won.high, all_won.low) == (1.0, pytest.approx(1 - 0.1611, abs=1e-4))


def test_nothing_gives_none() -> None:
    assert percentiles([]) is None
    assert rate(0, 0) is None
    assert bootstrap_mean([], seed=0) is None
    assert median([]) is None
    assert mean([]) is None


def test_bootstrap_is_fixed_by_its_seed() -> None:
    differences = [1.0, 0.0, 0.0, -1.0, 1.0, 0.0, 1.0]
    first, again = bootstrap_mean(differences, seed=3), bootstrap_mean(differences, seed=3)
    assert first == again
    assert first != bootstrap_mean(np.linspace(-1, 1, 7).tolist(), seed=3)


def test_bootstrap_against_the_exact_distribution() -> None:
    # With n pairs of which half differ by 1, the resampled sum is binomial(n, 1/2): for n = 100 its 2.5 % and
    # 97.5 % quantiles are 40 and 60.
    found = bootstrap_mean([0.0] * 50 + [1.0] * 50, seed=1, resamples=20_000)
    assert found is not None
    assert found.value == 0.5
    assert found.low == pytest.approx(0.40, abs=0.011)
    assert found.high == pytest.approx(0.60, abs=0.011)
    assert not found.includes_zero


def test_equal_pairs_have_no_width() -> None:
    found = bootstrap_mean([0.0] * 12, seed=0)
    assert found is not None
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.includes_zero


def test_length_bins_take_their_lower_edge() -> None:
    assert length_bins([499, 500, 999, 1000, 5000], [0, 500, 1000, 2000]) == [
        (0, 500, [0]),
        (500, 1000, [1, 2]),
        (1000, 2000, [3]),
        (2000, None, [4]),
    ]
    assert length_bins([], [0, 10]) == []
