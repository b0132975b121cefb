"""Groups of episodes that count in the quality comparison, and their figures by mode, budget and suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count

from erecap.budget import budget_order
from erecap.evaluation.rows import QualityRow
from erecap.generation import JsonRow
from erecap.report.stats import Interval, mean, rate

Budgeted = int | str | None  # tokens, `auto`, or none
Group = tuple[str, str, Budgeted]  # suite, mode, budget
Played = dict[int, QualityRow]  # by episode


class Episodes:
    """Episodes by suite, mode and budget. Those that ended with an error do not count.

    Nor, while a mode is not through with a suite, do those after the first one that it lacks. Short episodes, mostly
    won, are the first to end where several are played at a time, and those that fit into the budget have rows before
    any other is played; so the first episodes of a run are easier than those that it lacks.

    Args:
        rows: all that were played.
        within_window: nor do those whose history outgrew the model's window in any mode, where modes without a budget
            lost old messages. They count otherwise: a planner that searches in vain outgrows its window, so that
            leaving them out would choose episodes by how they ended.
    """

    def __init__(self, rows: Sequence[QualityRow], *, within_window: bool = False) -> None:
        played: dict[Group, set[int]] = {}
        for row in rows:
            played.setdefault(_group(row), set()).add(row.episode)
        firsts = {group: next(n for n in count() if n not in numbers) for group, numbers in played.items()}
        self.rows = [row for row in rows if row.episode < firsts[_group(row)]]
        self.waiting = Counter(_group(row) for row in rows if row.episode > firsts[_group(row)])
        self.apart = {(row.suite, row.episode) for row in self.rows if row.overflow}
        self._left_out = self.apart if within_window else set()

    def counted(self, suite: str, mode: str, budget: Budgeted) -> Played:
        """The episodes that count, by their numbers."""
        return {
            row.episode: row
            for row in self.rows
            if _group(row) == (suite, mode, budget)
            and row.end != "error"
            and (row.suite, row.episode) not in self._left_out
        }


def group_figures(episodes: Episodes, suite: str, mode: str, budget: Budgeted) -> JsonRow:
    """Success and costs of a suite in a mode, over the episodes that count."""
    every = [row for row in episodes.rows if _group(row) == (suite, mode, budget)]
    rows = list(episodes.counted(suite, mode, budget).values())
    share = rate(sum(row.success for row in rows), len(rows))
    return {
        "suite": suite,
        "mode": mode,
        "budget": budget,
        "episodes": len(every),
        "errors": sum(row.end == "error" for row in every),
        "within_budget": sum(row.same_as is not None for row in every),
        "counted": len(rows),
        "waiting": episodes.waiting[suite, mode, budget],  # played, but after one that is missing
        "sr": None if share is None else _interval(share),
        **_costs(rows),
    }


def _costs(rows: Sequence[QualityRow]) -> JsonRow:
    return {
        "spl": _rounded(mean([row.spl for row in rows])),
        "steps": _rounded(mean([row.steps for row in rows])),
        "replans": _rounded(mean([row.replans for row in rows])),
        "tokens": _rounded(mean([row.tokens for row in rows])),
        "kept_share": _rounded(mean([row.kept_share for row in rows if row.kept_share is not None])),
        **({"dropping": _rounded(mean(told))} if (told := _dropping(rows)) else {}),
    }


def _dropping(rows: Sequence[QualityRow]) -> list[float]:
    return [row.dropping for row in rows if row.dropping is not None]


def budget_figures(episodes: Episodes, suite: str, unpruned: str) -> list[JsonRow]:
    """Success and costs of the modes played at several budgets, and of the mode `unpruned`, on the same episodes."""
    budgets: dict[str, set[int | str]] = {}
    for row in episodes.rows:
        if row.suite == suite and row.budget is not None:
            budgets.setdefault(row.mode, set()).add(row.budget)
    ordered = {mode: sorted(own, key=budget_order) for mode, own in sorted(budgets.items()) if len(own) > 1}
    several = [(mode, budget) for mode, own in ordered.items() for budget in own]
    if not several:
        return []
    played: dict[tuple[str, Budgeted], Played] = {
        (mode, budget): episodes.counted(suite, mode, budget) for mode, budget in several
    }
    if rows := episodes.counted(suite, unpruned, None):
        played[unpruned, None] = rows
    common = set.intersection(*(set(rows) for rows in played.values()))
    found = []
    for (mode, budget), rows in played.items():
        same = [rows[number] for number in sorted(common)]
        share = rate(sum(row.success for row in same), len(same))
        if share is not None:
            found.append({"mode": mode, "budget": budget, "n": len(same), "sr": _interval(share), **_costs(same)})
    return found


def _group(row: QualityRow) -> Group:
    return row.suite, row.mode, row.budget


def _interval(share: Interval) -> JsonRow:
    return {key: round(getattr(share, key), 4) for key in ("value", "low", "high")}


def apart_figures(episodes: Episodes, suite: str) -> JsonRow:
    """Success in the episodes whose history outgrew the window in some mode."""
    rows = [row for row in episodes.rows if (row.suite, row.episode) in episodes.apart and row.suite == suite]
    modes = {(row.mode, row.budget) for row in rows}
    return {
        "suite": suite,
        "episodes": len({row.episode for row in rows}),
        "modes": [
            {
                "mode": mode,
                "budget": budget,
                "n": len(own := [row for row in rows if (row.mode, row.budget) == (mode, budget)]),
                "overflowed": sum(bool(row.overflow) for row in own),
                "sr": _rounded(mean([row.success for row in own])),
            }
            for mode, budget in sorted(modes, key=lambda pair: (pair[0], budget_order(pair[1])))
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
