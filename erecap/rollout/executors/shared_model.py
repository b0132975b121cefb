"""The batch executor: several episodes at a time in one process, whose planners share the model's forward calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.rollout.components import Components, Say
from erecap.rollout.executors.cluster import RayExecutor
from erecap.rollout.executors.processes import ProcessExecutor
from erecap.rollout.executors.serial import SerialExecutor, Watch
from erecap.rollout.jobs import Job, Played


class BatchExecutor(SerialExecutor):
    """Plays `config.batch` episodes at a time. Its rows are marked `contended`.

    Each episode has a thread, an environment and a session of its own. The threads take turns, and wait for each other
    only at the model: what all episodes ask of it then is read in one forward call (see `ReplanPool`). Decoding one
    token reads every weight once, and so does decoding one for each of eight episodes.
    """

    contended = True
    _twins: Sequence[Components] = ()

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Load what the modes need, once, and open environments for all episodes that are played together."""
        super().prepare(modes, say)
        say(f"playing {self.config.batch} episodes at a time")
        self._twins = [self._components.twin() for _ in range(self.config.batch - 1)]
        self._free = [self._components, *self._twins]  # what no episode is played with now

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]:
        """Raises ConfigError if the model is one whose calls cannot be joined."""
        pool = self._components.pool()
        tasks = [partial(self._play, job, watch) for job in jobs]
        if pool is None:  # nobody asks a model
            yield from (task() for task in tasks)
            return
        with closing(pool.stream(tasks, at_once=self.config.batch)) as results:
            yield from results

    def close(self) -> None:
        super().close()
        for twin in self._twins:
            twin.close()

    def _play(self, job: Job, watch: Watch) -> Played:
        components = self._free.pop()
        try:
            tick = partial(watch, job)
            return self.play_one(job, self.config, self.suites, components, contended=True, tick=tick)
        finally:
            self._free.append(components)


AnyExecutor = SerialExecutor | ProcessExecutor | RayExecutor
EXECUTORS: dict[str, type[AnyExecutor]] = {"serial": SerialExecutor, "process": ProcessExecutor, "ray": RayExecutor}


def executor_of(config: RunConfig) -> type[AnyExecutor]:
    """The executor class for `config`."""
    return BatchExecutor if config.batch > 1 else EXECUTORS[config.executor]
