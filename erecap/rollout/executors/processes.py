"""The process executor: spawned workers that load the model once and play one job at a time.

The parent alone writes rows. A worker that dies is noticed by the end of its pipe, never waited for.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from erecap.config.modes import Mode, is_url
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import ErecapError, RunError
from erecap.rollout.components import OpenComponents, Say
from erecap.rollout.executors.serial import PlayOne, Setting, Watch, to_travel
from erecap.rollout.jobs import Job, Played
from erecap.rollout.run_folder.machine import cores
from erecap.rollout.run_folder.rows import lost_episode

DEATHS_ALLOWED = 3  # in a row, without an episode played in between
_STOP_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = field(default=None)

    def describe_death(self) -> str:
        self.process.join(_STOP_SECONDS)
        code = self.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"the worker process ended with {how}"


@dataclass(eq=False)
class ProcessExecutor(Setting):
    """Plays on `config.workers` processes. Its rows are marked `contended` if there is more than one.

    A worker that dies in an episode costs that episode, which becomes an error row, and is replaced.

    Raises:
        RunError: workers keep dying. From `prepare` and `play`.
        ErecapError: what a worker raised, such as a ModelError. From `prepare` and `play`.
    """

    def __post_init__(self) -> None:
        self.contended = self.config.workers > 1
        # Without a limit each worker would start a thread per core.
        threads = self.config.threads or max(1, cores() // self.config.workers)
        self.config = self.config.model_copy(update={"threads": threads})
        self._modes: list[Mode] = []
        self._workers: list[_Worker] = []
        self._facts: tuple[dict[str, Any] | None, int | None] = (None, None)

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Start the workers and wait until each has loaded what it needs."""
        self._modes = modes
        what = "which share a server's model" if is_url(self.config.model) else "each loads its own model"
        say(f"starting {self.config.workers} worker processes, {what}")
        self._workers = [self._start() for _ in range(self.config.workers)]
        for worker in self._workers:
            self._await_ready(worker)

    def facts(self) -> tuple[dict[str, Any] | None, int | None]:
        return self._facts

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]:
        waiting = deque(jobs)
        deaths = 0
        for worker in self._workers:
            self._hand_out(worker, waiting)
        while busy := {worker.pipe: worker for worker in self._workers if worker.job is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                job = worker.job
                assert job is not None
                try:
                    answer = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    deaths += 1
                    death = worker.describe_death()
                    yield lost_episode(job, self.suites[job.suite], death, self.contended)
                    if deaths >= DEATHS_ALLOWED:
                        raise RunError(f"{deaths} workers in a row died; the last: {death}") from None
                    worker = self._replace(worker)
                else:
                    if isinstance(answer, ErecapError):
                        raise answer
                    deaths = 0
                    worker.job = None
                    yield answer
                self._hand_out(worker, waiting)

    def close(self) -> None:
        """End the workers: by asking those that are idle, by force those that play."""
        for worker in self._workers:
            if worker.job is not None:
                worker.process.kill()
            worker.pipe.close()  # an idle worker reads the end of its pipe, and leaves
        for worker in self._workers:
            worker.process.join(_STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(theirs, self.open_components, self.play_one, self.config, self.suites, self._modes, self.contended),
            daemon=True,
        )
        with _signals_blocked():
            process.start()
        theirs.close()  # or the end of the worker would not end the pipe
        return _Worker(process, ours)

    def _await_ready(self, worker: _Worker) -> None:
        try:
            answer = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RunError(f"{worker.describe_death()} before it could play") from None
        if isinstance(answer, ErecapError):
            raise answer
        self._facts = answer

    def _replace(self, dead: _Worker) -> _Worker:
        dead.pipe.close()
        fresh = self._start()
        self._workers[self._workers.index(dead)] = fresh
        self._await_ready(fresh)
        return fresh

    def _hand_out(self, worker: _Worker, waiting: deque[Job]) -> None:
        if not waiting:
            return
        worker.job = waiting.popleft()
        try:
            worker.pipe.send(worker.job)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died while idle: reading its pipe says so next, and counts the job as lost


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes inside: they inherit the blocked signals, and the parent gets its own afterwards.

    Ctrl-C in a terminal reaches the whole group, and so do a scheduler's signals. The parent decides what happens then;
    a worker that died of one would be taken for an episode that was lost.
    """
    # Started by the first worker otherwise, which unblocks the signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    pipe: Connection,
    open_components: OpenComponents,
    play_one: PlayOne,
    config: RunConfig,
    suites: Mapping[str, Suite],
    modes: list[Mode],
    contended: bool,
) -> None:
    """The life of a worker. Known errors travel to the parent; unknown ones end it with a traceback."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    components = open_components(config, suites)
    try:
        try:
            components.prepare(modes, lambda line: None)
            pipe.send((components.model_facts(), components.threads()))
            while True:
                pipe.send(play_one(pipe.recv(), config, suites, components, contended=contended))
        except ErecapError as error:
            pipe.send(to_travel(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has no more jobs, or has ended
    finally:
        components.close()
