"""The batch executor: several episodes at a time in one process, whose planners share the model's forward calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.rollout.components import Components, OpenComponents, Say
from erecap.rollout.executors import PlayOne, SerialExecutor, Watch, play_job
from erecap.rollout.jobs import Job, Played
from erecap.rollout.workers import ProcessExecutor


class BatchExecutor:
    """Plays `config.batch` episodes at a time. Its rows are marked `contended`.

    Each episode has a thread, an environment and a session of its own. The threads take turns, and wait for each other
    only at the model: what all episodes ask of it then is read in one forward call (see `ReplanPool`). Decoding one
    token reads every weight once, and so does decoding one for each of eight episodes.
    """

    contended = True

    def __init__(
        self,
        config: RunConfig,
        suites: Mapping[str, Suite],
        open_components: OpenComponents,
        play_one: PlayOne = play_job,
    ) -> None:
        self._play_one = play_one
        self._config = config
        self._suites = suites
        self._components = open_components(config, suites)
        self._free: list[Components] = []

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Load what the modes need, once, and open environments for all episodes that are played together."""
        self._components.prepare(modes, say)
        say(f"playing {self._config.batch} episodes at a time")
        twins = [self._components.twin() for _ in range(self._config.batch - 1)]
        self._free = [self._components, *twins]

    def facts(self) -> tuple[dict[str, Any] | None, int | None]:
        return self._components.model_facts(), self._components.threads()

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]:
        """Raises ConfigError if the model is one whose calls cannot be joined."""
        pool = self._components.pool()
        tasks = [partial(self._play, job, watch) for job in jobs]
        if pool is None:  # nobody asks a model
            yield from (task() for task in tasks)
            return
        with closing(pool.stream(tasks, at_once=self._config.batch)) as results:
            yield from results

    def close(self) -> None:
        for components in {id(c): c for c in (self._components, *self._free)}.values():
            components.close()

    def _play(self, job: Job, watch: Watch) -> Played:
        components = self._free.pop()
        try:
            tick = partial(watch, job)
            return self._play_one(job, self._config, self._suites, components, contended=True, tick=tick)
        finally:
            self._free.append(components)


def executor_of(config: RunConfig) -> type[SerialExecutor] | type[ProcessExecutor] | type[BatchExecutor]:
    """Which executor plays `config`."""
    if config.batch > 1:
        return BatchExecutor
    return SerialExecutor if config.executor == "serial" else ProcessExecutor
