"""Figures of an ablation: each variant beside the whole, on the same calls and episodes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.evaluation.ablation.agreement import rows_of
from erecap.evaluation.ablation.parts import WHOLE, Variant
from erecap.generation import JsonRow
from erecap.report.load import Run
from erecap.report.rows import ReplanRow
from erecap.report.stats import bootstrap_mean, bootstrap_ratio

PHASES = ("total_ms", "prefill_ms", "decode_ms")
SEED = 0  # of the bootstrap


def summarise(variants: Sequence[Variant], timed: Run | None, played: Run | None, agreement: Path) -> list[JsonRow]:
    """One row a variant; what was not measured yet is None."""
    compared = rows_of(agreement)
    return [
        {
            "variant": variant.name,
            "part": variant.part,
            "what": variant.what,
            **_times(variant.name, timed),
            "agreement": _agreement(variant.name, compared),
            "success": _success(variant, played),
        }
        for variant in variants
    ]


def _times(name: str, run: Run | None) -> JsonRow:
    calls = {} if run is None else _calls(run, name)
    whole = {} if run is None else _calls(run, WHOLE)
    both = [key for key in calls if key in whole]
    if not both:
        return {"calls": 0, **dict.fromkeys(PHASES), "over_all": None, "kv_bytes": None, "kv_over_all": None}
    figures: JsonRow = {"calls": len(both)}
    for phase in PHASES:
        figures[phase] = statistics.median(float(getattr(calls[key], phase)) for key in both)
    episodes = list(dict.fromkeys(key[:2] for key in both))
    sums = [
        tuple(sum(side[key].total_ms for key in both if key[:2] == own) for side in (calls, whole)) for own in episodes
    ]
    value = sum(pair[0] for pair in sums) / sum(pair[1] for pair in sums)
    ratios = [pair[0] / pair[1] for pair in sums]
    figures["over_all"] = {"value": value, "low": min(ratios), "high": max(ratios)}  # over episodes
    figures["kv_bytes"] = statistics.fmean(calls[key].kv_bytes for key in both)
    before = statistics.fmean(whole[key].kv_bytes for key in both)
    figures["kv_over_all"] = figures["kv_bytes"] / before if before else None
    return figures


def _calls(run: Run, mode: str) -> dict[tuple[str, int, int], ReplanRow]:
    """Calls of a mode by suite, episode and number; on the expert's plans these are the same calls in every mode."""
    return {(row.suite, row.episode, row.replan): row for row in run.replans if row.mode == mode and row.prompt_tokens}


def _agreement(name: str, rows: Sequence[JsonRow]) -> JsonRow | None:
    own = [row for row in rows if row["variant"] == name and row["plan_tokens"]]
    if not own:
        return None
    interval = bootstrap_ratio([(row["agreed"], row["plan_tokens"]) for row in own], seed=SEED)
    assert interval is not None, "rows with tokens"
    tokens = sum(row["plan_tokens"] for row in own)
    return {"share": interval.value, "low": interval.low, "high": interval.high, "tokens": tokens, "episodes": len(own)}


def _success(variant: Variant, run: Run | None) -> JsonRow | None:
    """Share of successes, and minus that of the whole on the same episodes."""
    if run is None:
        return None
    rows: dict[str, dict[Any, Any]] = {
        mode: {row.pair: row for row in run.episodes if row.mode == mode and row.end != "error"}
        for mode in (WHOLE, variant.name)
    }
    pairs = [(row, rows[WHOLE][key]) for key, row in sorted(rows[variant.name].items()) if key in rows[WHOLE]]
    if not pairs:
        return None
    found: JsonRow = {"episodes": len(pairs), "rate": sum(own.success for own, _ in pairs) / len(pairs)}
    found["spl"] = sum(own.spl for own, _ in pairs) / len(pairs)
    if variant.name != WHOLE:
        interval = bootstrap_mean([float(own.success) - float(other.success) for own, other in pairs], seed=SEED)
        assert interval is not None, "there are pairs"
        found["minus_all"] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return found
