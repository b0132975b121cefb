"""The base of all executors, and the one that plays in this process, one episode after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import ErecapError, GameError
from erecap.rollout.charges import charge_of
from erecap.rollout.clock import EpisodeClock
from erecap.rollout.components import Components, OpenComponents, Say
from erecap.rollout.episode import Tick, play
from erecap.rollout.jobs import Job, Played
from erecap.rollout.run_folder.rows import lost_episode

if TYPE_CHECKING:
    import gymnasium as gym

Watch = Callable[[Job, int, int], None]
"""Called with (job, commands executed, plans made) while an episode is played."""


class Executor(Protocol):
    """Plays jobs and yields the result of each as soon as it is there, in any order."""

    contended: bool  # episodes share the machine, so their timings are not to be compared

    def prepare(self, modes: list[Mode], say: Say) -> None: ...

    def facts(self) -> tuple[dict[str, Any] | None, int | None]:
        """The model's facts and thread count, once prepared."""

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]: ...

    def close(self) -> None: ...


def play_job(
    job: Job,
    config: RunConfig,
    suites: Mapping[str, Suite],
    components: Components,
    *,
    contended: bool,
    tick: Tick | None = None,
) -> Played:
    """Open what a job needs and play it; games that cannot be opened become an error row."""
    mode, suite = config.mode(job.mode), suites[job.suite]
    planner = components.planner(mode, trace=job.sample)
    try:
        env = components.env(suite, expert=config.asks_expert(mode))
    except GameError as error:
        return lost_episode(job, suite, f"GameError: {error}", contended)
    clock = episode_clock(config, mode, env)
    return play(job, suite, env, planner, config.planner, mode=mode, contended=contended, clock=clock, tick=tick)


def episode_clock(config: RunConfig, mode: Mode, env: gym.Env[str, str]) -> EpisodeClock | None:
    """The clock of an episode; None where the world waits for the planner.

    Raises:
        ConfigError: an environment without a clock.
    """
    settings = config.clock
    if settings is None:
        return None
    return EpisodeClock(settings, env, charge_of(settings, mode))


class PlayOne(Protocol):
    """An executor's function for a job: `play_job`, or one that also records. It travels to workers by pickle."""

    def __call__(
        self,
        job: Job,
        config: RunConfig,
        suites: Mapping[str, Suite],
        components: Components,
        *,
        contended: bool,
        tick: Tick | None = None,
    ) -> Played: ...


def to_travel(error: ErecapError) -> ErecapError:
    """An error in the form that workers send: class and text only, for a cause may hold things that cannot travel."""
    return type(error)(str(error))


@dataclass(eq=False)
class Setting:
    """The arguments of every executor."""

    config: RunConfig
    suites: Mapping[str, Suite]
    open_components: OpenComponents
    play_one: PlayOne = play_job


@dataclass(eq=False)
class SerialExecutor(Setting):
    """Plays in this process. The executor for timings."""

    contended = False

    def __post_init__(self) -> None:
        self._components = self.open_components(self.config, self.suites)

    def prepare(self, modes: list[Mode], say: Say) -> None:
        self._components.prepare(modes, say)

    def facts(self) -> tuple[dict[str, Any] | None, int | None]:
        return self._components.model_facts(), self._components.threads()

    def play(self, jobs: Sequence[Job], watch: Watch) -> Iterator[Played]:
        for job in jobs:
            tick = partial(watch, job)
            yield self.play_one(job, self.config, self.suites, self._components, contended=False, tick=tick)

    def close(self) -> None:
        self._components.close()
