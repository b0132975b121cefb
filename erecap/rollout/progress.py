"""Progress of a run: a live bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from erecap.generation import JsonRow
from erecap.rollout.jobs import Job
from erecap.rollout.time_left import TimeLeft

_LINE_SECONDS = 10.0


class RunProgress:
    """Episodes done, time left, success so far per mode, and what is being played.

    Args:
        console: where to show it; a terminal gets a live bar.
        modes: in the order in which they are shown.
        total: episodes of the whole run.
        done: rows of episodes played before.
        missing: the episodes to be played now.
    """

    def __init__(
        self, console: Console, modes: Sequence[str], total: int, done: Sequence[JsonRow], missing: Sequence[Job]
    ) -> None:
        self._console = console
        self._live = console.is_terminal
        self._won = {mode: [0, 0] for mode in modes}
        for row in done:
            self._count(row)
        self._total = total
        self._done = len(done)
        self._time_left = TimeLeft(missing, done)
        self._started = self._last_end = self._last_line = time.monotonic()
        self._now = ""
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._task = self._bar.add_task(self._left(), total=total, completed=self._done)
        self._view = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> RunProgress:
        if self._live:
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def playing(self, job: Job, steps: int, plans: int) -> None:
        """Show that something happened in the episode of `job`."""
        self._now = f"{job.suite} {job.mode} episode {job.episode}: {plans} plans, {steps} steps"
        self._show()

    def played(self, row: JsonRow) -> None:
        """An episode has ended."""
        self._done += 1
        self._count(row)
        now = time.monotonic()
        self._time_left.ended(row, now - self._last_end)
        self._last_end = now
        self._bar.update(self._task, completed=self._done)
        if row["error"]:
            self.say(f"{row['suite']} {row['mode']} episode {row['episode']}: {row['error']}")
        self._show(force=self._done == self._total)

    def summary(self) -> str:
        """Successes per mode, as in `full 3/10, prune[recency] 2/10`."""
        return ", ".join(f"{mode} {won}/{count}" for mode, (won, count) in self._won.items())

    def _render(self) -> RenderableType:
        return Group(self._bar, Text(self._wins()), Text(self._now))

    def _wins(self) -> str:
        return f"won {self.summary()}" if self._won else ""  # a recording has no modes before its first row

    def _count(self, row: JsonRow) -> None:
        tally = self._won.setdefault(row["mode"], [0, 0])
        tally[0] += bool(row["success"])
        tally[1] += 1

    def _left(self) -> str:
        if self._done >= self._total:
            return "done"
        now = time.monotonic()
        left = self._time_left.seconds(now - self._started, now - self._last_end)
        if left is None:
            return f"time left: told once episodes of each suite have ended; {_duration(now - self._started)} so far"
        return f"about {_duration(left)} left"

    def _show(self, force: bool = False) -> None:
        self._bar.update(self._task, description=self._left())
        if not self._live and (force or time.monotonic() - self._last_line >= _LINE_SECONDS):
            self._last_line = time.monotonic()
            parts = [f"{self._done}/{self._total} episodes", self._left(), self._wins()]
            self.say(" | ".join(part for part in (*parts, "" if force else self._now) if part))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
