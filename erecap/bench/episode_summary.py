"""Summary of replans past the window: agreement by stretch, time over the floor, flatness."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from erecap.bench.episode import BEFORE, BEYOND, EARLY, LATE, STRETCHES, EpisodeBench
from erecap.bench.replan.ceilings import ratio, ratio_apart
from erecap.bench.results import Figure, result_row
from erecap.generation import JsonRow
from erecap.targets import TARGETS

RESAMPLES = 10_000


def episode_summary(found: JsonRow, seed: int = 0) -> JsonRow:
    """By stretch: medians and agreement; time over the floor, flatness; and two differences in points.

    `difference` is the agreement beyond the window minus that before it. `paired` is that beyond minus that of
    sessions that began later, at the same places of the same text.
    """
    raw = found["raw"]
    by = {stretch: [row for row in raw if row["stretch"] == stretch] for stretch in STRETCHES}
    stretches = [
        {
            "stretch": stretch,
            "n": len(own),
            "from": min(row["read"] for row in own),
            "to": max(row["read"] for row in own),
            "total_ms": statistics.median(row["total_ms"] for row in own),
            "floor_ms": statistics.median(row["floor_ms"] for row in own),
            "agreement": statistics.mean(row["agreement"] for row in own),
            "stored": statistics.median(row["stored"] for row in own),
        }
        for stretch, own in by.items()
        if own
    ]
    beyond, before, early = by[BEYOND], by[BEFORE], by[EARLY]
    late = {(row["episode"], row["place"]): row["agreement"] for row in by[LATE]}
    return {
        "stretches": stretches,
        "difference": vars(_difference(beyond, before, seed)),
        "paired": vars(_mean_of([row["agreement"] - late[row["episode"], row["place"]] for row in beyond], seed)),
        "over_floor": vars(ratio([r["total_ms"] for r in beyond], [r["floor_ms"] for r in beyond])),
        "flatness": vars(ratio_apart([r["total_ms"] for r in beyond], [r["total_ms"] for r in early])),
    }


def episode_rows(bench: EpisodeBench, summary: JsonRow, about: JsonRow) -> list[JsonRow]:
    """The row R5, which also needs R2 and R3 to hold beyond the window."""
    by = {entry["stretch"]: entry for entry in summary["stretches"]}
    over, flat = summary["over_floor"]["value"], summary["flatness"]["value"]
    figure, paired = Figure(**summary["difference"]), Figure(**summary["paired"])
    holds = TARGETS["R5"].holds(figure.value) and TARGETS["R2"].holds(over) and TARGETS["R3"].holds(flat)
    note = (
        f"{bench.episodes} episodes of {bench.tokens:,} tokens; agreement {100 * by[BEFORE]['agreement']:.1f} % in the "
        f"last quarter before the window ({by[BEFORE]['n']} replans), {100 * by[BEYOND]['agreement']:.1f} % beyond "
        f"({by[BEYOND]['n']}), and {100 * by[LATE]['agreement']:.1f} % at the same places for sessions that began "
        f"later and have not passed their window (paired difference {paired.value:+.1f}, {paired.low:+.1f} to "
        f"{paired.high:+.1f}); beyond the window {over:.2f} times the floor, {flat:.2f} times the time at "
        f"{bench.early:,} tokens"
    )
    return [result_row("R5", figure, about, row="algorithm", note=note, holds=holds)]


def _difference(beyond: Sequence[JsonRow], before: Sequence[JsonRow], seed: int) -> Figure:
    """Difference of mean agreements in points, with its 95 % bootstrap interval."""
    first, second = (np.array([row["agreement"] for row in own]) for own in (beyond, before))
    random = np.random.default_rng(seed)
    draws = [own[random.integers(len(own), size=(RESAMPLES, len(own)))].mean(1) for own in (first, second)]
    low, high = np.percentile(100 * (draws[0] - draws[1]), [2.5, 97.5])
    value = 100 * float(first.mean() - second.mean())
    return Figure(value, min(float(low), value), max(float(high), value), len(first) + len(second))


def _mean_of(differences: Sequence[float], seed: int) -> Figure:
    """Mean of paired differences in points, with its 95 % bootstrap interval."""
    own = 100 * np.array(differences)
    draws = own[np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))].mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Figure(float(own.mean()), min(float(low), own.mean()), max(float(high), own.mean()), len(own))
