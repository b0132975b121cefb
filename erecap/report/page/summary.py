"""Summary of a run: the figures of `summary.json` from its rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from erecap.report.load import Run
from erecap.report.page import timing
from erecap.report.page.exits import exit_figures
from erecap.report.page.realtime import clock_figures
from erecap.report.page.teams import team_figures
from erecap.report.rows import EpisodeRow, ReplanRow
from erecap.report.stats import bootstrap_mean, mean, percentiles, rate

SUMMARY_FORMAT = 1
RESULT_EPISODES = 100  # below this many episodes in any mode, a comparison is a smoke test
PAIRED_MEASURES = ("success", "spl", "progress")


def summarise(run: Run) -> dict[str, Any]:
    """All figures of the report, ready for JSON.

    Rates are shares (0..1), times milliseconds, lengths tokens. Episodes that ended with an error stand
    apart, and so does an episode whose history outgrew the model's window in any mode: there the modes
    did not read the same. What is left is "counted", and all rates and differences are over counted
    episodes.
    """
    modes, suites = run.modes, run.suites
    baseline = baseline_of(modes)
    overflowed = {row.pair for row in run.episodes if row.overflow}
    counted = [row for row in run.episodes if row.end != "error" and row.pair not in overflowed]
    per_mode = {mode: [row for row in counted if row.mode == mode] for mode in modes}
    calls = {mode: [call for call in run.replans if call.mode == mode] for mode in modes}
    sizes = [len(rows) for rows in per_mode.values()]
    # Between a model with a layer plan and one without, counts of tokens tell no ceiling.
    model = run.head.model
    shape = model.shape if model and not model.plans and not model.controllers else None

    ceiling = {
        mode: timing.speed_up(shape, mode, run.keeps_session(mode), calls[baseline], calls[mode])
        for mode in modes
        if baseline and mode != baseline and timing.timed(calls[mode])
    }
    summary = {
        "format": SUMMARY_FORMAT,
        "name": run.head.name,
        "status": run.head.status,
        "label": "result" if sizes and min(sizes) >= RESULT_EPISODES else "smoke",
        "baseline": baseline,
        "modes": {mode: _mode_figures(run, mode, per_mode[mode], calls[mode]) for mode in modes},
        "suites": {
            suite: {mode: _success_figures([row for row in per_mode[mode] if row.suite == suite]) for mode in modes}
            for suite in suites
        },
        "measures": _measures(per_mode, suites),
        "paired": {
            mode: _paired(run, per_mode[baseline], per_mode[mode], suites)
            for mode in modes
            if baseline and mode != baseline
        },
        "ceiling": ceiling,
        "teams": team_figures(run, counted),
        "apart": {
            "errors": [
                {"suite": row.suite, "mode": row.mode, "episode": row.episode, "error": row.error}
                for row in run.episodes
                if row.end == "error"
            ],
            "overflow": _overflow(run.episodes, overflowed, modes),
            "orphan_replans": run.orphan_replans,
            "torn_rows": run.torn_rows,
        },
        "faults": [mode for mode, figures in ceiling.items() if figures["fault"]],
    }
    return _plain(summary)


def baseline_of(modes: Sequence[str]) -> str | None:
    """The mode that the others are compared with: `full` where it was played, else the first."""
    return "full" if "full" in modes else (modes[0] if modes else None)


def _mode_figures(run: Run, mode: str, counted: Sequence[EpisodeRow], calls: Sequence[ReplanRow]) -> dict[str, Any]:
    rows = [row for row in run.episodes if row.mode == mode]
    read = [call for call in calls if call.prompt_tokens > 0]
    triggers: Counter[str] = Counter()
    for row in rows:
        triggers.update(row.triggers)
    return {
        "episodes": len(rows),
        "errors": sum(row.end == "error" for row in rows),
        "overflow": sum(bool(row.overflow) for row in rows),
        "contended": sum(row.contended for row in rows),
        **_success_figures(counted),
        "steps": mean([row.steps for row in counted]),
        "replans": sum(row.replans for row in rows),
        "replans_per_episode": mean([row.replans for row in counted]),
        "triggers": dict(triggers),
        "invalid_plans": sum(row.invalid_plans for row in rows),
        "model_calls": len(read),
        # None: the mode has no budget, or the run does not say which.
        "kv_tokens": run.kv_tokens(mode),
        "dropping": mean([call.drops for call in read]),  # share of the calls that dropped part of the history
        "tokens": {
            "prompt": percentiles([call.prompt_tokens for call in read]),
            "new": percentiles([call.new_tokens for call in read]),
            "reused": percentiles([call.reused_tokens for call in read]),
            "kept": percentiles([call.kept_tokens for call in read]),
            "kept_share": mean([call.kept_tokens / call.prompt_tokens for call in read]),
            "plan": percentiles([call.plan_tokens for call in read]),
        },
        "kv_bytes": percentiles([call.kv_bytes for call in read]),
        "latency": timing.latency(calls),
        "clock": clock_figures(counted, calls),
        "exits": exit_figures(read),
    }


def _success_figures(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    return {
        "counted": len(rows),
        "successes": sum(row.success for row in rows),
        "sr": rate(sum(row.success for row in rows), len(rows)),
        "spl": mean([row.spl for row in rows]),
        "progress": mean([row.progress for row in rows]),
    }


def _measures(per_mode: Mapping[str, Sequence[EpisodeRow]], suites: Sequence[str]) -> dict[str, Any]:
    """Means of the simulators' own measures by suite, mode and name; `n` episodes have the measure."""
    found: dict[str, Any] = {}
    for suite in suites:
        for mode, rows in per_mode.items():
            measures = [row.measures for row in rows if row.suite == suite]
            for name in dict.fromkeys(name for one in measures for name in one):
                values = [one[name] for one in measures if name in one]
                figures = {"n": len(values), "mean": mean(values)}
                found.setdefault(suite, {}).setdefault(mode, {})[name] = figures
    return found


def _paired(
    run: Run, baseline: Sequence[EpisodeRow], other: Sequence[EpisodeRow], suites: Sequence[str]
) -> dict[str, Any]:
    """Differences `other` minus baseline over the episodes that both finished, overall and by suite."""
    partners = {row.pair: row for row in baseline}
    pairs = [(partners[row.pair], row) for row in sorted(other, key=lambda row: row.pair) if row.pair in partners]

    def differences(chosen: Sequence[tuple[EpisodeRow, EpisodeRow]]) -> dict[str, Any]:
        return {"pairs": len(chosen)} | {
            measure: bootstrap_mean(
                [float(getattr(mine, measure)) - float(getattr(theirs, measure)) for theirs, mine in chosen],
                seed=run.head.seed,
            )
            for measure in PAIRED_MEASURES
        }

    by_suite = {suite: differences([pair for pair in pairs if pair[1].suite == suite]) for suite in suites}
    return differences(pairs) | {"suites": by_suite}


def _overflow(episodes: Sequence[EpisodeRow], overflowed: set[tuple[str, int]], modes: Sequence[str]) -> dict[str, Any]:
    """Success in the episodes that stand apart because a history outgrew the window in some mode."""
    figures = {}
    for mode in modes:
        rows = [row for row in episodes if row.mode == mode and row.pair in overflowed and row.end != "error"]
        figures[mode] = _success_figures(rows) | {"overflowed": sum(bool(row.overflow) for row in rows)}
    return {"episodes": len(overflowed), "modes": figures if overflowed else {}}


def _plain(value: Any) -> Any:
    """Dataclasses to dictionaries, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
