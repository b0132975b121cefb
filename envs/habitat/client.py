"""Connection to habitat-sim: a worker process in this interpreter or another one, whichever has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError, EnvironmentUnavailable, GameError, RunError
from erecap.threading_policy import environment_of_others
from erecap.worker_process import ProcessEnded, WorkerProcess

WORKER = Path(__file__).with_name("worker.py")
VARIABLE = "ERECAP_HABITAT_PYTHON"
START_LIMIT = 120.0  # seconds until a worker has imported habitat-sim


class SimulatorEnded(GameError):
    """The simulator's process ended by itself, as it does when it crashes."""


class Connection:
    """habitat-sim in a worker process; the next request after a failure starts a new one.

    Args:
        python: an interpreter that has habitat-sim.
        time_limit: seconds that one request may take.
        worker: the script that it runs.
    """

    def __init__(self, python: Path, time_limit: float, worker: Path = WORKER) -> None:
        self.python, self.time_limit, self._worker = python, time_limit, worker
        self._process: WorkerProcess | None = None

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request that `worker.py` describes.

        Raises:
            SimulatorEnded: the simulator crashed.
            GameError: the request failed, or took too long.
        """
        process = self._process or self._start()
        try:
            return process.ask(what, **arguments)
        except RunError as error:
            self.close()
            kind = SimulatorEnded if isinstance(error, ProcessEnded) else GameError
            raise kind(str(error)) from error

    def close(self) -> None:
        """End the simulator."""
        if self._process is not None:
            process, self._process = self._process, None
            process.close(kill=True)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None: none runs."""
        return None if self._process is None else self._process.pid

    def hello(self) -> dict[str, Any]:
        """Versions of habitat-sim and Python, and whether it has Bullet.

        Raises:
            EnvironmentUnavailable: the interpreter is missing or cannot import habitat-sim.
        """
        try:
            return (self._process or self._start()).ask("hello", time_limit=START_LIMIT)
        except RunError as error:
            self.close()
            why = str(error).partition(": ")[2] or str(error)
            raise EnvironmentUnavailable(
                f"{self.python} does not serve habitat-sim ({why}); set python: or {VARIABLE} to one that does"
            ) from error

    def _start(self) -> WorkerProcess:
        try:
            self._process = WorkerProcess(
                "habitat-sim",
                self.python,
                self._worker,
                time_limit=self.time_limit,
                environment=environment_of_others(),
            )
        except ConfigError as error:
            raise EnvironmentUnavailable(
                f"{error}; set python: or {VARIABLE} to an interpreter that has habitat-sim"
            ) from error
        return self._process


def find_python(option: Path | None, variables: Mapping[str, str] = os.environ) -> Path:
    """The interpreter of the worker process.

    Args:
        option: the suite's `python:`; None: what the environment variable names, else this interpreter.

    Raises:
        EnvironmentUnavailable: habitat-sim is not here, and no other interpreter is named.
    """
    named = option or (Path(variables[VARIABLE]) if variables.get(VARIABLE) else None)
    if named is not None:
        return named.expanduser()
    if find_spec("habitat_sim") is not None:
        return Path(sys.executable)
    raise EnvironmentUnavailable(
        "environment 'habitat' needs habitat-sim, which this Python does not have: install it with conda "
        f"(docs/habitat.md), and set {VARIABLE} to that interpreter"
    )


def connect(option: Path | None, time_limit: float) -> Connection:
    """A connection that was tried.

    Raises:
        EnvironmentUnavailable: no interpreter with habitat-sim.
    """
    connection = Connection(find_python(option), time_limit)
    connection.hello()
    return connection


def ask_version(python: Path) -> dict[str, Any]:
    """Versions of habitat-sim and Python in an interpreter, and whether it has Bullet.

    Raises:
        EnvironmentUnavailable: it has no habitat-sim.
    """
    connection = Connection(python, START_LIMIT)
    try:
        return connection.hello()
    finally:
        connection.close()
