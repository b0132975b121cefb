"""Figures of cooperating planners: by their number and mode, success, simulated time, and what a replan costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.report.load import Run
from erecap.report.page.course import RE_READ
from erecap.report.page.timing import timed
from erecap.report.rows import EpisodeRow, ReplanRow
from erecap.report.stats import Interval, bootstrap_ratio, mean, median, rate


def team_figures(run: Run, counted: Sequence[EpisodeRow]) -> list[dict[str, Any]]:
    """One entry for each number of planners and each mode; none where no planners cooperated.

    Calls that were made once more on an empty cache are a mode of their own, `re-read`: its answers, and so its
    success, are those of the mode beside whose calls they were made. `tokens_ratio` and `ms_ratio` compare a mode's
    tokens read and milliseconds with those of `re-read` over the same calls: of the same number in the same episode.
    """
    sizes = {row.key: row.agents for row in run.episodes if row.agents is not None}
    found = []
    for size in sorted(set(sizes.values())):
        rows = [row for row in counted if row.agents == size]
        calls = [call for call in run.replans if sizes.get(call.key) == size and call.prompt_tokens]
        again = [call for call in calls if call.reread is not None]
        entries = []
        for mode in run.modes:
            own = [call for call in calls if call.mode == mode]
            if not own and not any(row.mode == mode for row in rows):
                continue
            if any(call.mode == mode for call in again):
                entries.append(_re_read(size, mode, rows, [call for call in again if call.mode == mode]))
            entries.append(_figures(run, size, mode, rows, own, again))
        found += entries
    return found


def _figures(
    run: Run,
    size: int,
    mode: str,
    rows: Sequence[EpisodeRow],
    calls: Sequence[ReplanRow],
    again: Sequence[ReplanRow],
) -> dict[str, Any]:
    usable = timed(calls)
    return {
        **_outcome(size, mode, mode, rows),
        "calls": len(calls),
        "tokens": mean([call.new_tokens for call in calls]),
        "ms": median([call.total_ms for call in usable]),
        "kv_bytes": median([call.kv_bytes for call in calls]),
        "tokens_ratio": _ratio(run, [(call, call.new_tokens) for call in calls], again, "new_tokens"),
        "ms_ratio": _ratio(run, [(call, call.total_ms) for call in usable], timed(again), "total_ms"),
    }


def _re_read(size: int, mode: str, rows: Sequence[EpisodeRow], again: Sequence[ReplanRow]) -> dict[str, Any]:
    figures = [call.reread for call in again if call.reread is not None]
    times = [call.reread.total_ms for call in timed(again) if call.reread is not None]
    return {
        **_outcome(size, RE_READ, mode, rows),
        "calls": len(figures),
        "tokens": mean([figure.new_tokens for figure in figures]),
        "ms": median(times),
        "kv_bytes": None,
        "tokens_ratio": None,
        "ms_ratio": None,
    }


def _outcome(size: int, name: str, mode: str, rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    own = [row for row in rows if row.mode == mode]
    won = [row for row in own if row.success]
    return {
        "agents": size,
        "mode": name,
        "counted": len(own),
        "successes": len(won),
        "sr": rate(len(won), len(own)),
        "progress": mean([row.progress for row in own]),
        # The makespan: simulated seconds until the last robot was done; of episodes that were won.
        "seconds": mean([row.seconds for row in won if row.seconds is not None]),
        "waited": mean([row.waited for row in own if row.waited is not None]),
        "conflicts": mean([row.conflicts for row in own]),
    }


def _ratio(
    run: Run, calls: Sequence[tuple[ReplanRow, float]], again: Sequence[ReplanRow], field: str
) -> Interval | None:
    """Sum of a mode's calls over that of the same calls re-read, with an interval over episodes."""
    read_again = {(*_episode(call), call.replan): float(getattr(call.reread, field)) for call in again}
    pairs: dict[tuple[str, int], tuple[float, float]] = {}
    for call, value in calls:
        other = read_again.get((*_episode(call), call.replan))
        if other is not None:
            mine, theirs = pairs.get(_episode(call), (0.0, 0.0))
            pairs[_episode(call)] = mine + value, theirs + other
    return bootstrap_ratio([pairs[episode] for episode in sorted(pairs)], seed=run.head.seed)


def _episode(call: ReplanRow) -> tuple[str, int]:
    return call.suite, call.episode
