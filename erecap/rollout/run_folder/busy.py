"""Cores that other programs took while a run was played."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)  # columns of `STAT`: idle, and idle while waiting for a disk
COUNTED = 8  # columns that add up to the whole time; those behind them are counted in the first two


class BusyBeside:
    """Measures from its making on how busy other programs keep the cores.

    Args:
        stat: the kernel's counters of the whole machine, in the format of `/proc/stat`.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._all, self._own, self._started = _all_seconds(stat), _own_seconds(), time.perf_counter()

    def cores(self) -> float | None:
        """Return the cores that other programs took on average; None where the kernel does not tell."""
        now = _all_seconds(self._stat)
        passed = time.perf_counter() - self._started
        if self._all is None or now is None or passed <= 0:
            return None
        return max(0.0, (now - self._all - (_own_seconds() - self._own)) / passed)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all_seconds(stat: Path) -> float | None:
    """Seconds of all cores that were not idle; None outside Linux, and where this process may use some cores only."""
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    per_core = [line for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
    if not lines or len(per_core) != len(os.sched_getaffinity(0)):
        return None
    ticks = [int(number) for number in lines[0].split()[1 : COUNTED + 1]]
    busy = sum(ticks) - sum(ticks[column] for column in IDLE)
    return busy / os.sysconf("SC_CLK_TCK")
