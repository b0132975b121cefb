"""Measured time of pruning during a read, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Adds up the time of the stages of a cache.

    An accelerator runs behind the host. So two events a stage are recorded among its work, and their distance is looked
    at when somebody asks; on a CPU the host's own clock tells.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.Event, torch.Event]] = []  # begin and end of stages that were not looked at yet

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count the time within. What ends with an error is not counted."""
        if device.type == "cpu":
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        begun, ended = torch.Event(device, enable_timing=True), torch.Event(device, enable_timing=True)
        begun.record()
        yield
        ended.record()
        self._events.append((begun, ended))

    @property
    def seconds(self) -> float:
        """All so far; waits for stages that the device has not run yet."""
        for begun, ended in self._events:
            ended.synchronize()
            self._seconds += begun.elapsed_time(ended) / 1e3
        self._events = []
        return self._seconds
