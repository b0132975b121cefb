"""Course of an episode: time and tokens of each replan by its number, one line a way of answering.

The ways are the modes that were played, and `re-read`: the calls that were made once more on an empty cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erecap.report.load import Run
from erecap.report.page.timing import timed
from erecap.report.rows import EpisodeRow, ReplanRow
from erecap.report.stats import median

RE_READ = "re-read"  # the name of the way that reads everything again
EARLY, LATE = 1 / 3, 2 / 3  # shares of the longest history up to and from which calls count as early and late


@dataclass(frozen=True)
class Point:
    """One call of a way."""

    call: int  # its number in the episode, from 1
    history: int  # tokens of its prompt
    seconds: float
    read: int  # tokens that were read in it


@dataclass(frozen=True)
class Way:
    """One line of the figure."""

    name: str  # a mode, or `RE_READ`
    points: list[Point]

    def early(self, longest: int) -> float | None:
        """Median seconds of the calls whose history has at most a third of `longest` tokens; None: there are none."""
        return median([point.seconds for point in self.points if point.history <= EARLY * longest])

    def late(self, longest: int) -> float | None:
        """Median seconds of the calls whose history has at least two thirds of `longest` tokens."""
        return median([point.seconds for point in self.points if point.history >= LATE * longest])


@dataclass(frozen=True)
class Course:
    """One episode that was played in several modes, and in one of them partly re-read."""

    suite: str
    episode: int
    mode: str  # whose calls were made once more
    ways: list[Way]  # re-reading first, then the modes in the order of the run

    @property
    def longest(self) -> int:
        """Tokens of the longest history that was re-read."""
        return max(point.history for point in self.ways[0].points)

    @property
    def calls(self) -> int:
        """The number of calls in the way that made most."""
        return max(point.call for way in self.ways for point in way.points)


def courses(run: Run) -> list[Course]:
    """The episode with the longest re-read history of each suite, the longest of all first; none without such calls."""
    usable = timed(run.replans)
    longest: dict[str, ReplanRow] = {}
    for call in usable:
        if call.reread is not None and call.prompt_tokens > _length(longest.get(call.suite)):
            longest[call.suite] = call
    return [
        _course(run, call, usable)
        for call in sorted(longest.values(), key=lambda call: call.prompt_tokens, reverse=True)
    ]


def successes(run: Run) -> list[tuple[str, int, int]]:
    """For each mode with a language model: its name, episodes won, and episodes played."""
    asked = {call.mode for call in run.replans if call.prompt_tokens}
    rows: dict[str, list[EpisodeRow]] = {mode: [] for mode in run.modes if mode in asked}
    for row in run.episodes:
        if row.mode in rows:
            rows[row.mode].append(row)
    return [(mode, sum(row.success for row in played), len(played)) for mode, played in rows.items()]


def _length(call: ReplanRow | None) -> int:
    return -1 if call is None else call.prompt_tokens


def _course(run: Run, of: ReplanRow, usable: Sequence[ReplanRow]) -> Course:
    calls = sorted((c for c in usable if (c.suite, c.episode) == (of.suite, of.episode)), key=lambda c: c.replan)
    again = [
        Point(call.replan + 1, call.prompt_tokens, call.reread.total_ms / 1000, call.reread.new_tokens)
        for call in calls
        if call.mode == of.mode and call.reread is not None
    ]
    ways = [Way(RE_READ, again)]
    for mode in run.modes:
        points = [
            Point(call.replan + 1, call.prompt_tokens, call.total_ms / 1000, call.new_tokens)
            for call in calls
            if call.mode == mode
        ]
        if points:
            ways.append(Way(mode, points))
    return Course(of.suite, of.episode, of.mode, ways)
