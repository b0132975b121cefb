"""Estimate of the time that a run still takes, from the episodes that have ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from erecap.generation import JsonRow
from erecap.rollout.jobs import Job

ENDED = 2  # episodes of a suite that must have ended before a time is told; one mode may take several times another's


class TimeLeft:
    """Estimates by suite: episodes of one take minutes, those of another seconds.

    Args:
        missing: the episodes that are still to be played.
        done: rows of episodes played before.
    """

    def __init__(self, missing: Sequence[Job], done: Sequence[JsonRow] = ()) -> None:
        self._left = Counter(job.suite for job in missing)
        self._modes = {suite: len({job.mode for job in missing if job.suite == suite}) for suite in self._left}
        self._taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._played = 0.0  # seconds of all episodes that ended in this run
        for row in done:
            if "wall_s" in row:
                self._note(row, row["wall_s"])

    def ended(self, row: JsonRow, since_last: float) -> None:
        """Note an episode that has ended; `since_last` (s) is its time where its row tells none."""
        seconds = row.get("wall_s", since_last)
        self._left[row["suite"]] -= 1
        self._played += seconds
        self._note(row, seconds)

    def seconds(self, elapsed: float, since_last: float) -> float | None:
        """Seconds until the end; None while they cannot be told.

        Args:
            elapsed: seconds since the run began; with workers, more than one second of episodes is played in each.
            since_last: seconds since the last episode ended.
        """
        work = longest = 0.0
        for suite, left in self._left.items():
            if left <= 0:
                continue
            taken = self._taken.get(suite, {})
            if sum(map(len, taken.values())) < min(ENDED, self._modes[suite]):
                return None
            one = fmean(fmean(times) for times in taken.values())
            work, longest = work + left * one, max(longest, one)
        at_once = max(1.0, self._played / elapsed) if elapsed > 0 else 1.0
        return max(work - longest, work - at_once * since_last, 0.0) / at_once

    def _note(self, row: JsonRow, seconds: float) -> None:
        self._taken[row["suite"]][row["mode"]].append(seconds)
