"""Loads on the machine under which a table is measured: a quiet one, a busy neighbour, less memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from erecap.bench import memory_worker
from erecap.bench.neighbour_processes import Neighbour
from erecap.errors import ConfigError

IDLE, BUSY, MEMORY = "idle", "busy", "memory"
LOADS: Mapping[str, str] = {
    IDLE: "nothing is started",
    BUSY: "a process multiplies matrices on all threads that are asked for",
    MEMORY: "a process holds memory and moves it about",
}


class LoadGenerator:
    """Starts each load's process at its first use, and stops it in between; a context manager that ends them.

    The memory of a stopped process stays held, so that process is ended instead.

    Args:
        threads: of the busy neighbour.
        memory_mb: of the process that holds memory.
    """

    def __init__(self, threads: int = 2, memory_mb: int = 1024) -> None:
        self._threads, self._memory_mb = threads, memory_mb
        self._stack = ExitStack()
        self._neighbour: Neighbour | None = None

    @contextmanager
    def under(self, load: str) -> Iterator[None]:
        """Within, the machine is under `load`.

        Raises:
            ConfigError: no load of that name.
            RunError: its process ended by itself.
        """
        if load not in LOADS:
            raise ConfigError(f"loads: got {load!r}; allowed: {', '.join(LOADS)}")
        if load == IDLE:
            yield
        elif load == MEMORY:
            with Neighbour(self._memory_mb, Path(memory_worker.__file__)):
                yield
        else:
            if self._neighbour is None:
                self._neighbour = self._stack.enter_context(Neighbour(self._threads))
            else:
                self._neighbour.resume()
            try:
                yield
            finally:
                self._neighbour.pause()

    def __enter__(self) -> LoadGenerator:
        return self

    def __exit__(self, *error: object) -> None:
        self._neighbour = None
        self._stack.close()
