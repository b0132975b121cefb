"""Counts of a collection by suite and by who acted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.table import Table

from erecap.training.collect.trajectories import Trajectory


@dataclass
class _Group:
    numbers: set[int] = field(default_factory=set)
    won: int = 0
    ended_early: int = 0
    plans: int = 0
    branches: int = 0
    steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def episodes(self) -> int:
        """How many were played."""
        return len(self.numbers)

    def add(self, row: Trajectory) -> None:
        if row.episode not in self.numbers:  # a team has a row for each planner
            self.numbers.add(row.episode)
            self.won += row.success
            self.ended_early += row.error is not None
            self.steps.append(row.steps)
        self.plans += len(row.targets)
        self.branches += sum(map(row.is_branch, row.targets))
        if row.tokens is not None:
            self.tokens.append(row.tokens)


class Tally:
    """Counts rows as they are written."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, row: Trajectory) -> None:
        """Count one row."""
        self._groups.setdefault((row.suite, row.source), _Group()).add(row)

    def counts(self) -> dict[str, Any]:
        """`counts` of `meta.json`: totals over all suites."""
        groups = self._groups.values()
        names = ("episodes", "won", "ended_early", "plans", "branches")
        totals: dict[str, Any] = {name: sum(getattr(group, name) for group in groups) for name in names}
        lengths = [tokens for group in groups for tokens in group.tokens]
        return {**totals, "tokens": sum(lengths)} if lengths else totals

    def table(self) -> Table:
        """For a terminal. `branches` are plans beside the chat: somebody else acted there."""
        counted = any(group.tokens for group in self._groups.values())
        table = Table(box=None, pad_edge=False)
        table.add_column("suite")
        table.add_column("acted")
        lengths = ("tokens p50", "p90", "most") if counted else ()
        for name in ("episodes", "won", "ended early", "plans", "branches", "steps p50", *lengths):
            table.add_column(name, justify="right")
        for (suite, source), group in sorted(self._groups.items()):
            shown = [
                str(group.episodes),
                f"{100 * group.won / group.episodes:.0f} %",
                *(str(number) for number in (group.ended_early, group.plans, group.branches)),
                f"{median(group.steps):g}",
            ]
            if counted:
                shown += [f"{value:,}" for value in _quantiles(group.tokens)] or ["-"] * 3
            table.add_row(suite, source, *shown)
        return table


def _quantiles(lengths: Sequence[int]) -> list[int]:
    if not lengths:
        return []
    ranked = sorted(lengths)
    return [ranked[(len(ranked) - 1) // 2], ranked[(len(ranked) - 1) * 9 // 10], ranked[-1]]
