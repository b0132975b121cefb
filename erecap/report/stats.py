"""The statistics of a comparison: rates with intervals, percentiles, and paired differences. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
Z95 = 1.959963984540054  # the normal quantile that leaves 2.5 % above it


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Percentiles:
    """Mean, percentiles and largest of `n` values, in the unit of the values."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Mean, P50, P95, P99 and maximum, linear between ranks; None where there is nothing to describe."""
    if not len(values):
        return None
    array = np.asarray(values, dtype=np.float64)
    p50, p95, p99 = np.percentile(array, [50, 95, 99])
    return Percentiles(len(array), float(array.mean()), float(p50), float(p95), float(p99), float(array.max()))


def rate(successes: int, n: int) -> Interval | None:
    """Share of successes with its 95 % Wilson score interval; None for n = 0.

    Unlike a bootstrap, it does not shrink to a point when none or all of few episodes succeed.
    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if n == 0:
        return None
    share = successes / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    # Rounding may leave the ends a hair outside of the share at 0 or 1.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Interval(share, min(share, max(0.0, low)), max(share, min(1.0, high)))


def bootstrap_mean(differences: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> Interval | None:
    """Mean of paired differences with its 95 % percentile bootstrap interval; None without pairs.

    Whole pairs are drawn with replacement, so what makes an episode easy or hard stays the same on both
    sides. The same differences and seed give the same interval.
    """
    if not len(differences):
        return None
    array = np.asarray(differences, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high))


def bootstrap_ratio(pairs: Sequence[tuple[float, float]], *, seed: int, resamples: int = RESAMPLES) -> Interval | None:
    """Sum of the firsts over sum of the seconds, with its 95 % percentile bootstrap interval over whole pairs.

    None without pairs, or where the seconds are all 0.
    """
    if not len(pairs) or not any(second for _, second in pairs):
        return None
    array = np.asarray(pairs, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    firsts, seconds = array[draws].sum(axis=1).T
    low, high = np.percentile(firsts[seconds > 0] / seconds[seconds > 0], [2.5, 97.5])
    first, second = array.sum(axis=0)
    return Interval(float(first / second), float(low), float(high))


def median(values: Sequence[float]) -> float | None:
    """The median; None without values."""
    return float(np.median(np.asarray(values, dtype=np.float64))) if len(values) else None


def mean(values: Sequence[float]) -> float | None:
    """The mean; None without values."""
    return float(np.mean(np.asarray(values, dtype=np.float64))) if len(values) else None


def length_bins(lengths: Sequence[int], edges: Sequence[int]) -> list[tuple[int, int | None, list[int]]]:
    """Sort indices by length into [edge, next edge) bins; empty bins are left out.

    The last bin is open: its upper edge is None. Lengths below `edges[0]` are not placed.
    """
    places = np.searchsorted(np.asarray(edges), np.asarray(lengths, dtype=np.int64), side="right") - 1
    bins = []
    for index, low in enumerate(edges):
        members = [int(member) for member in np.flatnonzero(places == index)]
        if members:
            bins.append((low, edges[index + 1] if index + 1 < len(edges) else None, members))
    return bins
