"""The Ray executor: workers on the nodes of a cluster, each of which loads the model once and plays one job at a time.

Ray finds the nodes, starts the workers there and says when one is lost (https://docs.ray.io/en/latest/ray-core/actors.html).
The process that owns the run alone writes rows.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.config.modes import Mode, is_url
from erecap.errors import ConfigError, ErecapError, RunError
from erecap.rollout.components import Say
from erecap.rollout.executors.cluster_worker import ClusterWorker
from erecap.rollout.executors.processes import DEATHS_ALLOWED
from erecap.rollout.executors.serial import Setting, Watch
from erecap.rollout.jobs import Job, Played
from erecap.rollout.run_folder.rows import lost_episode

WAIT_SECONDS = 30.0  # between two lines that say what a worker is waiting for


@dataclass(frozen=True)
class _Task:
    """A worker's present task: to get ready, or to play `job`."""

    worker: Any  # the actor's handle
    job: Job | None


@dataclass(eq=False)
class RayExecutor(Setting):
    """Plays on up to `config.workers` workers of a Ray cluster. Its rows are marked `contended`.

    The cluster is the one that this process is connected to already, or else the one that RAY_ADDRESS names or that
    `ray start` began on this machine, or else one that is started here. Workers play as soon as they are ready, so a
    cluster with room for fewer of them plays with fewer. One that is lost in an episode costs that episode, which
    becomes an error row, and is replaced.

    Raises:
        ConfigError: Ray is not installed.
        RunError: the cluster cannot be reached, workers keep being lost, or nodes hold different weights. From
            `prepare` and `play`.
        ErecapError: what a worker raised, such as a ModelError. From `prepare` and `play`.
    """

    contended = True

    def __post_init__(self) -> None:
        self._modes: list[Mode] = []
        self._tasks: dict[Any, _Task] = {}  # by what Ray returns for a call
        self._facts: tuple[dict[str, Any] | None, int | None] = (None, None)
        self._connected_here = False

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Connect, start the workers, and wait until one of them can play."""
        ray = self._ray = _import_ray()
        gone = ray.exceptions
        self._lost = (gone.RayActorError, gone.WorkerCrashedError, gone.OutOfMemoryError)
        self._modes = modes
        if not ray.is_initialized():
            self._connect(say)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        self._threads = self.config.threads or threads_of(cpus, self.config.workers)
        gpus = any(node.get("GPU") for node in nodes)
        wanted = self.config.device == "cuda" or (self.config.device == "auto" and gpus)
        self._gpus = 1 if wanted and not is_url(self.config.model) else 0  # simulators need none
        needs = f"{self._threads} CPU{'s' if self._threads > 1 else ''}" + (" and a GPU" if self._gpus else "")
        say(f"starting {self.config.workers} workers on a Ray cluster (nodes: {len(nodes)}), each with {needs}")
        for _ in range(self.config.workers):
            self._start()
        while True:
            done, _ = ray.wait(list(self._tasks), timeout=WAIT_SECONDS)
            if done:
                break
            free = ray.available_resources()
            idle = ", ".join(f"{free.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
            say(f"no worker is ready yet; each needs {needs}; free: {idle}")
        # Its task stays where it is: `play` finds it ready.
        answer = self._get(done[0], self._tasks[done[0]])
        if answer is None:
            raise RunError("a worker on the cluster ended before it could play")
        self._facts = answer

    def facts(self) -> tuple[dict[str, Any] | None, int | None]:
        return self._facts

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]:
        waiting = deque(jobs)
        lost = 0
        while waiting or any(task.job is not None for task in self._tasks.values()):
            done, _ = self._ray.wait(list(self._tasks))
            task = self._tasks[done[0]]
            answer = self._get(done[0], task)
            del self._tasks[done[0]]
            if answer is None:
                lost += 1
                if task.job is not None:
                    yield lost_episode(task.job, self.suites[task.job.suite], "the cluster lost the worker", True)
                if lost >= DEATHS_ALLOWED:
                    raise RunError(f"the cluster lost {lost} workers in a row")
                if waiting:
                    self._start()
                continue
            if task.job is not None:
                lost = 0
                yield answer
            else:
                _require_same_model(self._facts[0] or {}, answer[0] or {})
            if waiting:
                job = waiting.popleft()
                self._tasks[task.worker.play.remote(job)] = _Task(task.worker, job)
            else:
                self._ray.kill(task.worker)  # what it holds is free for others while the last episodes are played

    def close(self) -> None:
        """End the workers, whatever they do, and leave the cluster if it was joined here."""
        for task in self._tasks.values():
            self._ray.kill(task.worker)
        self._tasks.clear()
        if self._connected_here:
            self._ray.shutdown()
            self._connected_here = False

    def _connect(self, say: Say) -> None:
        # A local cluster would otherwise report to its makers that it was started.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        say("connecting to Ray")
        try:
            _knock(os.environ.get("RAY_ADDRESS", ""))
            with _signals_kept():
                self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except OSError as error:  # ConnectionError is one
            where = os.environ.get("RAY_ADDRESS", "this machine")
            raise RunError(f"no Ray cluster answers at {where}; start one with `ray start --head`") from error
        self._connected_here = True

    def _start(self) -> None:
        kind = self._ray.remote(ClusterWorker)
        # Ray sets the number of threads of a worker by num_cpus, and hides the GPUs that it was not given.
        options = {"num_cpus": self._threads, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        config = self.config.model_copy(update={"threads": self._threads})
        worker = kind.options(**options).remote(
            str(Path.cwd()), self.open_components, self.play_one, config, self.suites, self._modes
        )
        self._tasks[worker.ready.remote()] = _Task(worker, None)

    def _get(self, reference: Any, task: _Task) -> Any:
        """The worker's answer; None if the worker was lost. Raises the ErecapError that it met."""
        try:
            answer = self._ray.get(reference)
        except self._lost:
            return None
        if isinstance(answer, ErecapError):
            raise answer
        return answer


def threads_of(cpus: Sequence[int], workers: int) -> int:
    """The most threads a worker may have so that `workers` of them fit on nodes with that many CPUs; at least 1."""
    return next((n for n in range(max(cpus, default=1), 1, -1) if sum(c // n for c in cpus) >= workers), 1)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ConfigError(f"executor ray: {error.name} is not installed; pip install 'erecap[ray]'") from error
    return ray


def _require_same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    differ = sorted(key for key in {**one, **other} if one.get(key) != other.get(key))
    if differ:
        raise RunError(
            f"two workers of the cluster have loaded different models: {', '.join(differ)}; allowed: the same files on "
            "all nodes, and one number format (dtype)"
        )


def _knock(address: str) -> None:
    """Raise OSError if `address` is HOST:PORT and nobody listens there. Ray itself would ask for five minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: connecting to Ray replaces it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
