"""The episode loop: observe, plan, act, and replan when a trigger fires."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from erecap.config.modes import Mode, parse_mode
from erecap.config.run import PlannerSettings
from erecap.config.suite import Suite
from erecap.context.records import Context, Situation
from erecap.context.render import render
from erecap.errors import BudgetError, ErecapError, GameError, RunError
from erecap.generation import JsonRow
from erecap.planners.triggers import Triggers
from erecap.protocols import Plan, Planner
from erecap.rollout.clock import EpisodeClock
from erecap.rollout.jobs import Job, Played
from erecap.rollout.observed import Observed, clean
from erecap.rollout.run_folder.rows import episode_row, replan_row
from erecap.rollout.run_folder.samples import SampleRecorder

if TYPE_CHECKING:
    import gymnasium as gym

log = logging.getLogger(__name__)
# Troubles of the machine: every further episode would meet them, so they end the run instead of becoming its rows.
_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
INVALID = "invalid"  # the trigger after a plan that could not be read; for the others see `Triggers`

Tick = Callable[[int, int], None]
"""Called with (commands executed, plans made) after each of them: a sign of life in a long episode."""


def play(
    job: Job,
    suite: Suite,
    env: gym.Env[str, str],
    planner: Planner,
    settings: PlannerSettings,
    *,
    mode: Mode | None = None,
    contended: bool = False,
    clock: EpisodeClock | None = None,
    tick: Tick | None = None,
) -> Played:
    """Play one episode to its end.

    An episode ends with "success"; with "deadline", when the environment says that its time is over; with "horizon",
    when the environment truncates it or when
    `settings.max_invalid` plans in a row could not be read (no command was executed in between, so a
    deterministic planner would go on like that for ever); or with "error", when the game is broken
    (GameError, or anything else that the environment raises) or the planner's protected text exceeds its
    budget (BudgetError). An error is a row like any other, with what was played before it; it does not
    touch other episodes.

    Args:
        mode: of the job; None: the preset that it names.
        clock: of the environment; None: the world waits while the planner thinks.

    Raises:
        ModelError: the model cannot be used; that is not a matter of one episode.
        RunError: the machine cannot go on, because of a full disk, say.
    """
    episode = _Episode(job, mode or parse_mode(job.mode), suite, env, planner, settings, contended, clock, tick)
    started = time.perf_counter()
    error: str | None = None
    try:
        end = episode.run()
    except (GameError, BudgetError) as problem:
        end, error = "error", f"{type(problem).__name__}: {problem}"
    row = episode_row(
        job,
        suite,
        episode.replans,
        episode.last,
        steps=episode.steps,
        team=episode.team,
        end=end,
        error=error,
        contended=contended,
        wall_s=time.perf_counter() - started,
        clock=clock,
    )
    sample = episode.recorder.finish(row["goal"], row["success"]) if episode.recorder else None
    return Played(job, row, episode.replans, sample)


@contextmanager
def costs_its_episode() -> Iterator[None]:
    """Turn what an environment raises inside into an error of its game.

    Raises:
        GameError: anything but errors for the user, which pass, and troubles of the machine.
        RunError: such a trouble.
    """
    try:
        yield
    except ErecapError:
        raise
    except Exception as error:  # the code of a simulator: whatever it is, it is about this episode
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE):
            raise RunError(f"the environment met {type(error).__name__}: {error}; no row was written for it") from error
        log.warning("an environment failed", exc_info=error)
        raise GameError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


@dataclass
class _Agenda:
    """The plan of one robot, as far as it is not executed."""

    pending: deque[str] | None = None  # None: there was no plan yet
    executed: int = 0  # commands of it
    failed: bool = False  # the last of them
    unread: bool = False  # the last answer was no plan
    agent: str = ""  # who planned


class _Episode:
    """The state of one episode while it is played."""

    def __init__(
        self,
        job: Job,
        mode: Mode,
        suite: Suite,
        env: gym.Env[str, str],
        planner: Planner,
        settings: PlannerSettings,
        contended: bool,
        clock: EpisodeClock | None,
        tick: Tick | None,
    ) -> None:
        self.job = job
        self._mode = mode
        self.replans: list[JsonRow] = []
        self.last: Observed | None = None
        self.steps = 0
        self.team = 0  # planners that cooperate
        self.recorder = SampleRecorder(job, env) if job.sample else None
        self._suite = suite
        self._env = env
        self._planner = planner
        self._settings = settings
        self._contended = contended
        self._clock = clock
        self._tick = tick
        self._triggers = Triggers(period=settings.period)

    def run(self) -> str:
        """Play; returns how it ended."""
        with costs_its_episode():
            text, info = self._env.reset(seed=self.job.seed, options={"episode": self.job.episode})
            seen = self._observe(None, text, info)
            if self._clock:
                self._clock.begin()
        context = Context(seen.goal, seen.situation.templates, situation=seen.situation)
        for rule in seen.constraints:
            context.add("constraint", rule, step=0)
        context.add("observation", seen.text, seen.subject, step=0)
        agendas: dict[str, _Agenda] = {}
        invalid_in_row = 0
        while True:
            agenda = agendas.setdefault(seen.situation.robot, _Agenda())
            trigger = self._trigger(agenda, seen)
            if trigger is not None:
                if self._replan(context, trigger, agenda, agendas):
                    return "deadline"
                invalid_in_row = invalid_in_row + 1 if agenda.unread else 0
                if invalid_in_row >= self._settings.max_invalid:
                    return "horizon"
            elif self._clock:
                self._clock.read_ahead(self._planner, context)
            if not agenda.pending:
                continue
            end = self._step(context, agenda.pending.popleft(), agenda.agent)
            agenda.executed += 1
            if end is not None:
                return end
            seen = self._seen()
            agenda.failed = seen.failed
            if seen.goal.strip() != context.goal:
                # Its observation stands already; what is left of the plans served the goal before.
                context.add("goal", seen.goal, step=self.steps)
                for one in agendas.values():
                    one.pending = None if one.pending is None else deque()

    def _trigger(self, agenda: _Agenda, seen: Observed) -> str | None:
        if agenda.unread:
            return INVALID
        return self._triggers.check(
            agenda.pending, skills=seen.situation.skills, executed=agenda.executed, failed=agenda.failed
        )

    def _replan(self, context: Context, trigger: str, agenda: _Agenda, agendas: dict[str, _Agenda]) -> bool:
        """Ask for the plan of the robot whose turn it is, and note it; it may change the plans of others.

        Returns:
            True if the episode's deadline passed meanwhile.
        """
        # After a failure the rest of a plan stands on sand; at the end of a period it may still hold.
        context.trigger = trigger
        context.remaining = tuple(agenda.pending or ()) if trigger == "period" else ()
        context.plans = {robot: tuple(one.pending or ()) for robot, one in agendas.items()}
        plan, late = self._plan(context, trigger)
        for robot, steps in plan.others.items():
            agendas.setdefault(robot, _Agenda()).pending = deque(steps)
        agenda.pending, agenda.executed, agenda.failed = deque(plan.steps), 0, False
        agenda.unread, agenda.agent = not plan.steps, plan.agent
        return late

    def _seen(self) -> Observed:
        assert self.last is not None, "an episode starts with an observation"
        return self.last

    def _plan(self, context: Context, trigger: str) -> tuple[Plan, bool]:
        """Ask for a plan and record it, one that cannot be read as a failure as well; and if it came too late."""
        number = len(self.replans)
        # Rendered before the call, as the model sees it; the planner renders for itself.
        chat = render(context, max_steps=self._settings.max_steps).messages if self.recorder else []
        started = time.perf_counter()
        plan = self._planner.plan(context)
        elapsed_ms = (time.perf_counter() - started) * 1000
        if plan.problem is None and not plan.steps:
            plan = replace(plan, problem="the planner returned no step")
        self.team = max(self.team, plan.team)
        row = replan_row(self.job, self._mode, number, self.steps, trigger, plan, elapsed_ms, self._contended)
        self.replans.append(row)
        late = False
        if self._clock:
            with costs_its_episode():
                late, info, row["clock"] = self._clock.planned(plan, elapsed_ms)
                context.situation = Situation.from_info(info)
                if late:  # nothing follows that would see what became of the others' work meanwhile
                    self.last = Observed.read(self._seen().text, info)
        if self.recorder:
            self.recorder.planned(number, self.steps, trigger, plan, chat if plan.messages is None else plan.messages)
        text = clean(plan.text) or "\n".join(plan.steps)
        put_off = plan.generation is not None and plan.generation.finish_reason == "deferred"
        if text.strip() and not put_off:  # a deferred call adds nothing: the old plan goes on
            context.add("plan", text, step=self.steps, agent=plan.agent)
        if plan.problem is not None:
            problem = f"the plan could not be used: {clean(plan.problem)}"
            context.add("failure", problem, step=self.steps, agent=plan.agent)
        self._report()
        return plan, late

    def _step(self, context: Context, command: str, agent: str) -> str | None:
        """Execute one command and record what came of it; returns how the episode ended, if it did.

        Args:
            agent: the planner that it comes from, where several cooperate.
        """
        with costs_its_episode():
            text, _, terminated, truncated, info = self._env.step(command)
            self.steps += 1
            seen = self._observe(command, text, info)
            if self._clock:
                self._clock.acted()
        context.add("action", command, step=self.steps, agent=agent)
        if seen.failed:
            context.add("failure", seen.failure or seen.text, seen.subject, step=self.steps, agent=agent)
        if not seen.failed or seen.text.strip() != (seen.failure or seen.text).strip():
            context.add("observation", seen.text, seen.subject, step=self.steps, agent=agent)
        context.situation = seen.situation
        self._report()
        if seen.success:
            return "success"
        if terminated:
            raise GameError("the environment ended the episode, and the goal is not reached")
        if truncated:
            return "deadline" if seen.out_of_time else "horizon"
        return None

    def _observe(self, action: str | None, text: str, info: dict) -> Observed:
        seen = Observed.read(text, info)
        self.last = seen
        if self.recorder:
            self.recorder.observed(self.steps, action, seen)
        return seen

    def _report(self) -> None:
        if self._tick:
            self._tick(self.steps, len(self.replans))
