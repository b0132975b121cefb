"""Figures L1, L2 and L3: removal methods at equal measured speed, their time, and predicted beside measured speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from erecap.bench.results import Figure, result_row
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.layers.search import SearchFolder

SPRINT = "sprint"
BASELINES = ("sleb", "blockpruner")
SPEED_UPS = (1.15, 1.3)  # measured, of decoding, at which plans are compared; the worse counts
RESAMPLES = 2000


class Between(NamedTuple):
    """Two plans of a method around a measured speed-up; None: the whole model."""

    below: JsonRow | None
    above: JsonRow
    share: float  # of the way from `below` to `above`


def removal_rows(
    points: Sequence[JsonRow], searches: Mapping[str, SearchFolder], about: JsonRow, seed: int = 0
) -> tuple[list[JsonRow], list[str]]:
    """Rows of L1 to L3 that can be told from a front, and a line for each that cannot.

    Args:
        points: of a front, as `Front.draw` gives them.
        searches: by method.
        about: `command`, `machine`, `date`.
    """
    alone = [point for point in points if "clock" in point and point["kv_tokens"] is None and not point["draft"]]
    by_method: dict[str, list[JsonRow]] = {}
    for point in alone:
        by_method.setdefault(point["method"], []).append(point)
    rows: list[JsonRow] = []
    missing: list[str] = []
    for baseline in BASELINES:
        lacking = [method for method in (SPRINT, baseline) if method not in searches]
        if lacking:
            missing.append(f"L1-{baseline}, L2-{baseline}: no search with {lacking[0]}")
            continue
        try:
            rows.append(_differing(baseline, by_method, about, seed))
        except ValueError as error:
            missing.append(f"L1-{baseline}: {error}")
        try:
            rows.append(_time(baseline, searches, about))
        except ConfigError as error:
            missing.append(f"L2-{baseline}: {error}")
    predicted = [point for point in alone if point.get("predicted")]
    if predicted:
        rows.append(_predicted(predicted, about))
    else:
        missing.append("L3: no plan of a search was timed")
    return rows, missing


def around(points: Sequence[JsonRow], speed_up: float) -> Between:
    """The plans with the greatest measured decode speed-up below `speed_up`, and the least at or above it.

    Raises:
        ValueError: none reaches it.
    """
    decode = [(point["clock"]["decode"]["value"], point) for point in points]
    above = min((one for one in decode if one[0] >= speed_up), key=lambda one: one[0], default=None)
    if above is None:
        fastest = max((value for value, _ in decode), default=1.0)
        raise ValueError(f"the plans of {points[0]['method'] if points else 'it'} reach {fastest:.2f}x of {speed_up}x")
    below = max((one for one in decode if one[0] < speed_up), key=lambda one: one[0], default=(1.0, None))
    return Between(below[1], above[1], (speed_up - below[0]) / (above[0] - below[0]))


def differing(between: Between, episodes: np.ndarray) -> float:
    """Share of plans that differ from the dense planner's, interpolated between two plans.

    Args:
        episodes: indices, each as often as it was drawn.
    """
    return _differ(between.below, episodes) * (1 - between.share) + _differ(between.above, episodes) * between.share


def _differ(point: JsonRow | None, episodes: np.ndarray) -> float:
    if point is None:
        return 0.0
    rows = [point["episodes"][number] for number in episodes]
    plans = sum(row["plans"] for row in rows if row)
    return sum(row["differ"] for row in rows if row) / plans if plans else 0.0


def _differing(baseline: str, by_method: Mapping[str, Sequence[JsonRow]], about: JsonRow, seed: int) -> JsonRow:
    ours, theirs = by_method.get(SPRINT, []), by_method.get(baseline, [])
    pairs = [(around(ours, one), around(theirs, one)) for one in SPEED_UPS]
    counts = ours[0]["episodes"]
    plans = sum(row["plans"] for row in counts if row)

    def worst(episodes: np.ndarray) -> float:
        # Half a plan stands for none: a ratio over nothing is no number.
        return max(
            differing(own, episodes) / max(differing(other, episodes), 0.5 / max(1, plans)) for own, other in pairs
        )

    every = np.arange(len(counts))
    draws = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.percentile([worst(drawn) for drawn in draws], [2.5, 97.5])
    shares = [
        f"at {speed}x {100 * differing(own, every):.1f} % over {100 * differing(other, every):.1f} %"
        for speed, (own, other) in zip(SPEED_UPS, pairs, strict=True)
    ]
    figure = Figure(worst(every), float(low), float(high), plans)
    note = f"{'; '.join(shares)}; 95 % interval over {len(counts)} episodes"
    return result_row(f"L1-{baseline}", figure, about, row="algorithm", note=note)


class Work(NamedTuple):
    """The work of a search up to a speed-up."""

    steps: int
    evaluations: int
    passes: float  # of the whole model over the calibration text
    second: float  # of an evaluation: the median over steps
    quarters: tuple[float, float]  # of its distribution over steps


def work_of(search: SearchFolder, speed_up: float) -> Work:
    """The work up to a predicted speed-up of decoding.

    Raises:
        ConfigError: the search does not reach it.
    """
    rows = search.rows[1 : search.steps_for("decode", speed_up) + 1]
    each = sorted(row.seconds / row.evaluations for row in rows if row.evaluations)
    ends = (each[len(each) // 4], each[-1 - len(each) // 4])
    evaluations, passes = sum(row.evaluations for row in rows), sum(row.passes for row in rows)
    return Work(len(rows), evaluations, passes, statistics.median(each), ends)


def _time(baseline: str, searches: Mapping[str, SearchFolder], about: JsonRow) -> JsonRow:
    """Evaluations up to the largest of `SPEED_UPS`, predicted, times the seconds of one."""
    own, other = (work_of(searches[method], SPEED_UPS[-1]) for method in (SPRINT, baseline))
    counts = other.evaluations / own.evaluations
    figure = Figure(
        counts * other.second / own.second,
        counts * other.quarters[0] / own.quarters[1],
        counts * other.quarters[1] / own.quarters[0],
        own.steps,
    )
    note = (
        f"{other.evaluations} evaluations of {other.second:.3g} s over {own.evaluations} of {own.second:.3g} s; passes "
        f"of the whole model {other.passes:.0f} over {own.passes:.0f}; to a predicted {SPEED_UPS[-1]}x"
    )
    return result_row(f"L2-{baseline}", figure, about, row="algorithm", note=note)


def _predicted(points: Sequence[JsonRow], about: JsonRow) -> JsonRow:
    """The worst ratio of predicted and measured speed-up over plans and phases."""

    def apart(predicted: float, measured: float) -> float:
        return max(predicted / measured, measured / predicted)

    every = [
        (apart(value, point["clock"][phase]["value"]), value, point["clock"][phase], f"{phase} with {point['name']}")
        for point in points
        for phase, value in point["predicted"].items()
    ]
    worst, predicted, measured, name = max(every, key=lambda one: one[0])
    ends = sorted(apart(predicted, measured[end]) for end in ("low", "high"))
    within = 1.0 if measured["low"] <= predicted <= measured["high"] else ends[0]
    figure = Figure(worst, within, ends[1], len(points))
    note = f"{name}: predicted {predicted:.3f}, measured {measured['value']:.3f}; median of all {_median(every):.3f}"
    return result_row("L3", figure, about, row="algorithm", note=note)


def _median(every: Sequence[tuple[float, float, JsonRow, str]]) -> float:
    return statistics.median(one[0] for one in every)
