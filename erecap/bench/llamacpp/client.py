"""The worker process that runs llama.cpp, in another interpreter."""

from __future__ import annotations

from pathlib import Path

from erecap.errors import ConfigError
from erecap.threading_policy import environment_of_others
from erecap.worker_process import WorkerProcess

WORKER = Path(__file__).with_name("worker.py")
BUILT = Path(".venv-llamacpp/bin/python")  # what `make bench-llamacpp` makes


def require(python: Path) -> None:
    """Raise ConfigError if there is no interpreter at `python`."""
    if not python.is_file():
        raise ConfigError(f"no llama.cpp at {python}: `make bench-llamacpp` builds it (about 10 minutes)")


class LlamaCpp(WorkerProcess):
    """A worker process with llama.cpp; its requests are described in `worker.py`.

    Args:
        python: an interpreter that has `llama-cpp-python`.
        worker: the script that it runs.

    Raises:
        ConfigError: there is no such interpreter.
    """

    def __init__(self, python: Path = BUILT, worker: Path = WORKER) -> None:
        require(python)
        # It waits as it would without us: ours is the other side of the comparison.
        super().__init__("llama.cpp", python, worker, environment=environment_of_others())
