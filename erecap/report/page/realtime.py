"""Figures of a run against a clock: how long the world waited for plans, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.report.load import Run
from erecap.report.rows import EpisodeRow, ReplanRow
from erecap.report.stats import mean, percentiles
from erecap.report.svg import Series, inline, new_axes

EXPERT_PLANS = (
    "Plans are the expert's in every mode: the model reads the chat and decodes them as if they were its own. So "
    "success tells the planners' speed apart, and not their plans."
)


def clock_figures(rows: Sequence[EpisodeRow], calls: Sequence[ReplanRow]) -> dict[str, Any] | None:
    """Figures of one mode on the clock; None where the world waited for the planner.

    Args:
        rows: counted episodes.
        calls: of all episodes.
    """
    clocks = [row.clock for row in rows if row.clock is not None]
    timed = [call.clock for call in calls if call.clock is not None]
    if not timed:
        return None
    judged = [call for call in timed if call.slo_met is not None]
    return {
        "waited_ms": percentiles([call.waited_ms for call in timed]),
        "thinking_s": mean([clock.thinking_s for clock in clocks]),
        "seconds": mean([clock.seconds for clock in clocks]),
        "late": sum(row.end == "deadline" for row in rows),
        "read_ahead_tokens": mean([call.read_ahead_tokens for call in timed]),
        "judged_calls": len(judged),
        "slo_violations": sum(call.slo_met is False for call in judged) if judged else None,
        "deferred": sum(clock.deferred for clock in clocks),
        "reused_plans": sum(clock.reused_plans for clock in clocks),
    }


def plays_expert_plans(run: Run) -> bool:
    """Return True if the run's plans are the expert's, whatever its modes read and decode."""
    return bool(run.head.config.get("planner", {}).get("plans") == "expert")


def success_by_wait(summary: dict[str, Any], looks: dict[str, Series]) -> str | None:
    """Success rate of each mode, with its 95 % interval, against the seconds that a call is waited for on average."""
    modes = {
        mode: figures
        for mode, figures in summary["modes"].items()
        if figures["clock"] is not None and figures["counted"]
    }
    if not modes:
        return None
    figure, axes = new_axes()
    for mode, figures in modes.items():
        rate, look = figures["sr"], looks[mode]
        across = figures["clock"]["waited_ms"]["mean"] / 1e3
        axes.plot([across, across], [100 * rate["low"], 100 * rate["high"]], color=look.colour, lw=2.2, alpha=0.6)
        axes.plot(across, 100 * rate["value"], marker=look.marker, color=look.colour, ms=7)
    axes.set(xlabel="simulated seconds that a call is waited for, mean", ylabel="success rate, %", ylim=(-2, 102))
    return inline(figure, "realtime", "Success rate by mode against the time that a plan is waited for")
