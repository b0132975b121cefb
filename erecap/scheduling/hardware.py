"""State of the machine before a call: processor, memory, battery, GPU. What cannot be read is None, never an error."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from erecap.scheduling.nvml import GpuReader

SHORTEST = 0.05  # seconds between two looks at the processor; its counters have steps of 0.01
_UNREADABLE = (OSError, RuntimeError, NotImplementedError, AttributeError, ValueError)


@dataclass(frozen=True)
class Hardware:
    """One reading. Shares are from 0 to 1; None: this machine does not have it, or does not tell."""

    cpu_others: float | None = None  # share of the usable cores that other processes took since the last reading
    memory_free: float | None = None  # share of the memory that is free for programs
    battery: float | None = None  # its charge
    gpu_use: float | None = None  # share of the time in which the GPU was busy
    gpu_memory_free: float | None = None  # share of the GPU's memory


class HardwareMonitor:
    """Reads the machine's state; the share of the processor is that of the time since the last reading.

    Processes that this one has started count as others while they run.

    Args:
        device: of the model, as torch writes it; its GPU is read.
        system: answers as `psutil`; None: that package.
        gpu: reads the GPU; None: the one of `device`.
    """

    def __init__(self, device: str = "cpu", *, system: Any = None, gpu: GpuReader | None = None) -> None:
        if system is None:
            import psutil

            system = psutil
        self._system = system
        self._gpu = gpu if gpu is not None else GpuReader.of(device)
        self._cores = _usable_cores()
        self._last = self._taken()
        self._cpu: float | None = None

    def read(self) -> Hardware:
        """The state now."""
        return Hardware(
            cpu_others=self._cpu_others(),
            memory_free=self._memory_free(),
            battery=self._battery(),
            gpu_use=self._gpu.use(),
            gpu_memory_free=self._gpu.memory_free(),
        )

    def _cpu_others(self) -> float | None:
        now = self._taken()
        if now is None or self._last is None:
            self._last = now
            return None
        passed = now[0] - self._last[0]
        if passed >= SHORTEST:
            busy, own = (now[part] - self._last[part] for part in (1, 2))
            self._cpu = min(1.0, max(0.0, (busy - own) / (passed * self._cores)))
            self._last = now
        return self._cpu

    def _taken(self) -> tuple[float, float, float] | None:
        """Now, and the seconds that all processes and this one have taken so far; None where they are not told."""
        try:
            cores = self._system.cpu_times(percpu=True)
            usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(len(cores))
            busy = sum(_busy(cores[core]) for core in usable)
        except (*_UNREADABLE, IndexError):
            return None
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system

    def _memory_free(self) -> float | None:
        try:
            memory = self._system.virtual_memory()
            return _share(memory.available, memory.total)
        except _UNREADABLE:
            return None

    def _battery(self) -> float | None:
        try:
            found = self._system.sensors_battery()
        except _UNREADABLE:
            return None
        return None if found is None else _share(found.percent, 100.0)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy(times: Any) -> float:
    """Seconds of a core that were not idle. Time of guests is part of the user's time."""
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times._asdict().items() if name not in idle))


def _share(part: float, whole: float) -> float | None:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else None
