"""Plans for several robots on one model: goals and observations come in, steps go out. What `ros2_node.py` serves.

No ROS in here, so it works behind any transport. Each robot has a session of its own, and all of them share forward
calls. A robot has one goal at a time: a newer one pre-empts it. Observations are read while the robot moves, so that
the next goal finds them read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import erecap
from erecap.context import Situation
from erecap.context.prompt import NOTHING_DONE, record_text, system_text
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, ErecapError
from erecap.generation import Generation, Message
from erecap.planners.grammar.grammar import PlanGrammar

NEWER, CANCELED, CLOSED = "a newer goal came", "canceled", "the planner has ended"


@dataclass(frozen=True)
class Outcome:
    """The end of a goal."""

    state: Literal["succeeded", "canceled", "aborted"]
    steps: tuple[str, ...] = ()
    message: str = ""  # one line; "" where it succeeded
    prompt_tokens: int = 0
    new_tokens: int = 0  # of these, read for this goal; the others were read before
    seconds: float = 0.0


@dataclass(eq=False)
class Goal:
    """A plan that was asked for. `outcome` gets an `Outcome`; `stop` ends the goal where it is."""

    task: str  # the mission in words; "": the one that holds
    observation: str  # what was seen, or came of the last plan; "": nothing new
    on_steps: Callable[[tuple[str, ...]], None]  # told the whole steps so far, first none, when its turn comes
    outcome: Future[Outcome] = field(default_factory=Future)
    stopped: str | None = None  # why

    def stop(self, reason: str = CANCELED) -> None:
        """Let the model stop at its next token. The first reason counts; a finished goal stays as it is."""
        self.stopped = self.stopped or reason

    def ended(self) -> Outcome:
        """The outcome of a goal that was stopped."""
        return Outcome("canceled" if self.stopped == CANCELED else "aborted", message=str(self.stopped))


class Robot:
    """One robot: its session and chat, which its jobs use one at a time, and what waits for them."""

    def __init__(self, session: erecap.ReplanSession, chat: list[Message]) -> None:
        self.session, self.chat = session, chat
        self.task = ""
        self.seen: list[str] = []  # observations that are not in the chat yet
        self.waiting: Goal | None = None
        self.active: Goal | None = None
        self.busy = False


class RobotPlanner:
    """Plans for robots by name. Goals and observations may come from any thread.

    Args:
        model, tokenizer: as for `erecap.ReplanPool`.
        robots: their names.
        commands: what the robots understand: each step is one of these, and decoding is constrained to them. Without
            any, each line that the model writes is a step.
        budget: of each robot's session; None: nothing is dropped while the history fits.
        read_ahead: read an observation when it comes, as a message of its own. Without it observations wait for the
            next goal and are told in one message, for chat templates in which user and assistant must alternate.
        max_steps, max_new_tokens: the longest plan, in steps and in tokens.

    Raises:
        ConfigError: no robots, or a name twice.
        ModelError: a chat template that refuses the messages, or a tokenizer that cannot write the commands.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        robots: Sequence[str],
        *,
        commands: Sequence[str] = (),
        budget: erecap.Budget | None = None,
        read_ahead: bool = True,
        max_steps: int = 5,
        max_new_tokens: int = 64,
    ) -> None:
        if not robots or len(set(robots)) < len(robots):
            raise ConfigError(f"robots: got {', '.join(robots) or 'none'}; allowed: one or more, each name once")
        self.read_ahead, self.max_steps, self.max_new_tokens = read_ahead, max_steps, max_new_tokens
        self._commands = tuple(commands)
        self._grammar = PlanGrammar(tokenizer, max_steps) if commands else None
        rules: Message = {"role": "system", "content": system_text(commands, max_steps)}
        told: Message = {"role": "user", "content": "x"}
        render_prompt([rules, told, told] if read_ahead else [rules, told], tokenizer)  # a template's refusal, now
        self._pool = erecap.ReplanPool(model, tokenizer)
        budget = budget or erecap.Budget.auto()
        self._robots = {name: Robot(self._pool.session(budget=budget), [rules]) for name in robots}
        self._work = threading.Condition()  # guards what waits; no chat and no session
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="robot-planner", daemon=True)
        self._thread.start()

    def submit(
        self,
        robot: str,
        task: str = "",
        observation: str = "",
        on_steps: Callable[[tuple[str, ...]], None] = lambda steps: None,
    ) -> Goal:
        """Ask for a plan; returns at once. The robot's older goal is aborted, what it told is kept.

        Raises:
            ConfigError: no robot of that name.
        """
        goal = Goal(task.strip(), observation.strip(), on_steps)
        with self._work:
            own = self._robot(robot)
            older = own.waiting
            for replaced in (own.active, older):
                if replaced is not None:
                    replaced.stop(NEWER)
            if older is not None:  # nobody else will tell what it brought
                goal.task = goal.task or older.task
                own.seen += [older.observation] if older.observation else []
                older.outcome.set_result(older.ended())
            own.waiting = goal
            if self._closed:
                goal.stop(CLOSED)
                own.waiting = None
                goal.outcome.set_result(goal.ended())
            self._work.notify()
        return goal

    def observe(self, robot: str, text: str) -> None:
        """Tell what the robot sees or what a step did; returns at once.

        Raises:
            ConfigError: no robot of that name.
        """
        with self._work:
            own = self._robot(robot)
            if text.strip():
                own.seen.append(text.strip())
                self._work.notify()

    def close(self) -> None:
        """Abort all goals and free all keys and values. Goals that come later are aborted at once."""
        self.stop()
        self._thread.join()
        for own in self._robots.values():
            own.session.close()

    def stop(self) -> None:
        """Abort all goals without waiting for the planner's thread; for callbacks, which run in it."""
        with self._work:
            self._closed = True
            for own in self._robots.values():
                waiting, own.waiting = own.waiting, None
                for goal in (own.active, waiting):
                    if goal is not None:
                        goal.stop(CLOSED)
                if waiting is not None:
                    waiting.outcome.set_result(waiting.ended())
            self._work.notify()

    def _robot(self, name: str) -> Robot:
        if name not in self._robots:
            raise ConfigError(f"robot {name!r} is not known; allowed: {', '.join(self._robots)}")
        return self._robots[name]

    # In the planner's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for _ in self._pool.stream(self._jobs(), len(self._robots)):
                pass
        finally:
            self.stop()  # also where it ends by an error of this program: nobody waits for a thread that is gone

    def _jobs(self) -> Iterator[Callable[[], None] | None]:
        """A job of each robot that has work and is not at work; None while others are."""
        while True:
            with self._work:
                chosen = next((own for own in self._robots.values() if not own.busy and self._has_work(own)), None)
                if chosen is not None:
                    chosen.busy = True
                    chosen.active, chosen.waiting = chosen.waiting, None
                elif not any(own.busy for own in self._robots.values()):
                    if self._closed:
                        return
                    self._work.wait()
                    continue
            yield None if chosen is None else partial(self._serve, chosen)

    def _has_work(self, own: Robot) -> bool:
        return own.waiting is not None or (self.read_ahead and bool(own.seen) and not self._closed)

    def _serve(self, own: Robot) -> None:
        goal, outcome = own.active, None
        try:
            if goal is None:
                self._tell(own)
                own.session.read(own.chat)
            else:
                outcome = self._planned(own, goal)
        except (ErecapError, RuntimeError, ValueError) as error:  # a chat too long, a device that is full
            # What could not be read ahead is read with the next goal, which then says what is wrong.
            kind = "" if isinstance(error, ErecapError) else f"{type(error).__name__}: "
            outcome = Outcome("aborted", message=" ".join(f"{kind}{error}".split()))
        finally:
            with self._work:
                own.busy, own.active = False, None
            if goal is not None:
                goal.outcome.set_result(outcome or Outcome("aborted", message=CLOSED))

    def _planned(self, own: Robot, goal: Goal) -> Outcome:
        started = time.perf_counter()
        if not goal.task and not own.task:
            self._tell(own, [goal.observation])
            raise ConfigError("the goal has no task, and none came before it")
        task = record_text("goal", goal.task if goal.task != own.task else "")
        own.task = goal.task or own.task
        self._tell(own, [goal.observation], task)
        if goal.stopped is not None:
            return goal.ended()
        goal.on_steps(())
        allowed = None
        if self._grammar is not None:
            allowed = self._grammar.allowed(Situation(self._commands, templates=self._commands), self.max_new_tokens)
            if allowed is None:
                raise ConfigError(f"no command fits into {self.max_new_tokens} new tokens")
        told: list[tuple[str, ...]] = [()]

        def on_text(text: str) -> None:
            steps = self._steps(text.rpartition("\n")[0])
            if steps != told[-1]:
                told.append(steps)
                goal.on_steps(steps)

        generation = own.session.generate(
            own.chat,
            max_new_tokens=self.max_new_tokens,
            allowed_tokens=allowed,
            cancel=lambda: goal.stopped is not None,
            on_text=on_text,
        )
        if goal.stopped is not None:  # the plan stays here, so the chat does not have it
            return goal.ended()
        return self._handed_over(own, generation, time.perf_counter() - started)

    def _handed_over(self, own: Robot, generation: Generation, seconds: float) -> Outcome:
        whole = generation.finish_reason == "stop" or self._grammar is not None
        steps = self._steps(generation.text if whole else generation.text.rpartition("\n")[0])
        usage = generation.usage
        if not steps:
            message = f"no whole step within {self.max_new_tokens} tokens"
            return Outcome("aborted", (), message, usage.prompt_tokens, usage.new_tokens, seconds)
        own.chat.append({"role": "assistant", "content": "\n".join(steps)})
        return Outcome("succeeded", steps, "", usage.prompt_tokens, usage.new_tokens, seconds)

    def _tell(self, own: Robot, news: Sequence[str] = (), task: str | None = None) -> None:
        """Put what was seen into the chat as the user's words.

        Args:
            news: what came with the goal, behind what was seen before it.
            task: of a goal, which is to be answered: its line, or "" where it is the one before.
        """
        with self._work:
            seen, own.seen = own.seen, []
        messages = [(text, 0) for text in seen]
        told = "\n".join(part for part in (task or "", *news) if part)
        if task is not None and not told and own.chat[-1]["role"] != "user" and not seen:
            told = NOTHING_DONE
        for text, protected in [*messages, (told, len(task or ""))] if told else messages:
            # Spelled out: without it a chat's first user message counts as the goal, and here it may be an observation.
            message: Message = {"role": "user", "content": text, "protect": [(0, protected)] if protected else []}
            last = own.chat[-1]
            if self.read_ahead or last["role"] != "user":
                own.chat.append(message)
                continue
            shift = len(last["content"]) + 1
            spans = [(start + shift, end + shift) for start, end in message["protect"]]
            own.chat[-1] = {**last, "content": f"{last['content']}\n{text}", "protect": [*last["protect"], *spans]}

    def _steps(self, text: str) -> tuple[str, ...]:
        lines = [line.strip() for line in text.splitlines()]
        return tuple(line for line in lines if line)[: self.max_steps]
