"""The machine's state: shares where there is something to read, and absent where there is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from erecap.scheduling import nvml
from erecap.scheduling.features import ControllerState, Normaliser, feature_names, features
from erecap.scheduling.hardware import SHORTEST, Hardware, HardwareMonitor
from erecap.scheduling.nvml import GpuReader

ACTIONS = ("dense", "small")


class Core(NamedTuple):
    user: float
    system: float
    idle: float
    guest: float


class Bare:
    """A platform on which nothing can be read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def fails(*arguments: Any, **options: Any) -> Any:
            raise OSError("not here")

        return fails


class Machine:
    """A platform that tells what it is told."""

    def __init__(self) -> None:
        self.busy, self.charge = 0.0, 50.0

    def cpu_times(self, percpu: bool) -> list[Core]:
        assert percpu
        # Time of guests is part of the user's, and must not count twice.
        return [Core(self.busy, 0.0, 7.0, self.busy) for _ in range(os.cpu_count() or 1)]

    def virtual_memory(self) -> Any:
        return SimpleNamespace(available=3e9, total=12e9)

    def sensors_battery(self) -> Any:
        return SimpleNamespace(percent=self.charge)


class NVMLError(Exception):
    pass


def library(gpu: float = 40.0, fails: bool = False) -> Any:
    """The part of NVML that is asked, for a GPU that is not there."""

    def answer(value: Any) -> Any:
        if fails:
            raise NVMLError("lost")
        return value

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetUtilizationRates=lambda handle: answer(SimpleNamespace(gpu=gpu)),
        nvmlDeviceGetMemoryInfo=lambda handle: answer(SimpleNamespace(free=30, total=40)),
    )


def test_what_cannot_be_read_is_absent() -> None:
    assert HardwareMonitor(system=Bare()).read() == Hardware()


def test_shares_of_a_machine_that_tells_all() -> None:
    machine = Machine()
    monitor = HardwareMonitor(system=machine, gpu=GpuReader(library(), "handle"))
    machine.busy += 1000.0  # all cores, all of the time
    time.sleep(SHORTEST + 0.01)
    assert monitor.read() == Hardware(1.0, 0.25, 0.5, 0.4, 0.75)
    machine.charge = 250.0
    assert monitor.read().battery == 1.0


def test_a_gpu_that_fails_is_absent() -> None:
    reader = GpuReader(library(fails=True), "handle")
    assert (reader.use(), reader.memory_free()) == (None, None)
    assert GpuReader.of("cpu").use() is None and GpuReader.of("mps").memory_free() is None


def test_nvml_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library()
    found.nvmlInit = lambda: None
    found.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(nvml, "_uuid", lambda device: "GPU-1")
    assert GpuReader.of("cuda:1").use() == 0.4
    found.nvmlInit = library(fails=True).nvmlDeviceGetUtilizationRates
    found.nvmlInit = lambda: found.nvmlDeviceGetHandleByUUID.nothing  # a driver that does not answer
    monkeypatch.setattr(found, "nvmlInit", lambda: (_ for _ in ()).throw(NVMLError("no driver")))
    assert GpuReader.of("cuda:1").use() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert GpuReader.of("cuda").use() is None


def test_a_child_process_counts_as_another_and_this_one_does_not() -> None:
    monitor = HardwareMonitor()
    end = time.monotonic() + 0.4
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            while time.monotonic() < end:
                pass
            seen = monitor.read()
        finally:
            child.kill()
    assert seen.cpu_others is not None and 0 < seen.cpu_others <= 1
    assert seen.memory_free is not None and 0 < seen.memory_free < 1
    again = monitor.read()  # too early for a new share
    assert again.cpu_others == seen.cpu_others


def test_features_mark_what_is_absent() -> None:
    names = feature_names(ACTIONS)
    state = ControllerState(100, 10, 90, 0, 500.0, None, Hardware(cpu_others=0.5), "small")
    row = dict(zip(names, features(state, ACTIONS), strict=True))
    assert row["cpu_others"] == 0.5 and row["cpu_others absent"] == 0
    assert row["battery"] == 0 and row["battery absent"] == 1 and row["plan_loss absent"] == 1
    assert row["previous small"] == 1 and row["previous dense"] == 0
    blind = features(state, ACTIONS, hardware=False)
    assert len(blind) == len(feature_names(ACTIONS, hardware=False)) == len(names) - 10
    with pytest.raises(ValueError, match="plan_loss must be finite and 0 or more, got nan"):
        features(ControllerState(1, 1, 0, 0, 1.0, float("nan")), ACTIONS)


def test_states_outside_of_training_are_told_apart() -> None:
    names = feature_names(ACTIONS)
    rows = np.stack([features(ControllerState(tokens, 10, 90, 0, 500.0), ACTIONS) for tokens in range(100, 120)])
    normal = Normaliser.of(rows)
    assert all(normal.outside(row) is None for row in rows) and abs(normal(rows[0])).max() <= 2
    longer = features(ControllerState(10**9, 10, 90, 0, 500.0), ACTIONS)
    assert names[normal.outside(longer) or 0] == "prompt_tokens" and abs(normal(longer)).max() == 4.0
    # What never varied may not vary: another SLO, or a battery where there was none.
    slower = features(ControllerState(110, 10, 90, 0, 501.0), ACTIONS)
    assert names[normal.outside(slower) or 0] == "slo_ms"
    other = features(ControllerState(110, 10, 90, 0, 500.0, hardware=Hardware(battery=0.5)), ACTIONS)
    assert names[normal.outside(other) or 0] == "battery"
    assert normal.outside(features(ControllerState(110, 10, 90, 0, 500.0 + 1e-9), ACTIONS)) is None
