"""The team of one episode: whose turn it is, what each planner reads, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erecap.context import Context, Situation
from erecap.context.records import Record
from erecap.generation import Decision, Generation, Message
from erecap.planners.cooperative.agents import AgentSettings, Roster
from erecap.planners.cooperative.answer import Answer
from erecap.planners.cooperative.inbox import Contribution
from erecap.planners.cooperative.merge import Conflict, Merger
from erecap.planners.cooperative.view import View, beginning
from erecap.planners.templates import bindings
from erecap.protocols import Plan

PATIENCE = 8  # times in a row that a robot goes on waiting before its planner is asked again
PLAN_OF = "plan of "  # subjects of told plans begin so


@dataclass(frozen=True)
class Turn:
    """A question to one planner."""

    agent: AgentSettings
    messages: list[Message]
    facts: tuple[str, ...]  # subjects of what it saw and has not told
    contested: tuple[str, ...]  # things that others have planned for
    situation: Situation  # what it may command
    offered: Situation  # what a model is offered: to wait is left out where every other robot does nothing else


class Team:
    """Cooperating planners in one episode.

    Args:
        roster: who they are.
        context: of the episode, at its first planning call.
        max_steps: most commands of one answer.

    Raises:
        ConfigError: the agents file does not fit the episode.
    """

    def __init__(self, roster: Roster, context: Context, max_steps: int) -> None:
        self.context, self.settings, self.max_steps = context, roster.settings, max_steps
        self.agents = roster.agents(context.situation)
        self.shared = beginning(context, max_steps)
        self.views = {agent.name: View(agent, context, self.settings.buffer, max_steps) for agent in self.agents}
        self._turns = dict.fromkeys((agent.robot for agent in self.agents), 0)
        self._read = len(context.records)
        self._done: dict[str, dict[str, None]] = {agent.robot: {} for agent in self.agents}  # commands, as a set
        self._plans: dict[str, tuple[str, ...]] = {}  # the last one, by agent
        self._unread: dict[str, None] = {}  # agents whose robots have seen something, in this order
        self._waits = dict.fromkeys(self._turns, 0)  # in a row, by robot
        rules = [record.text for record in context.records if record.kind == "constraint"]
        templates, tell = context.situation.templates, self.settings.conflicts == "tell"
        self.merger = Merger(templates, self.settings.exclusive, context.goal, rules, tell=tell)

    def turn(self, *, patient: bool = False) -> Turn | Plan:
        """The question to the planner whose turn it is; or the plan of a robot that goes on waiting.

        Args:
            patient: a robot whose plan was to wait goes on with it while there is nothing to read but plans of others.
        """
        self.take_in()
        situation = self.context.situation
        waiting = self._goes_on_waiting(situation) or (self._waits_for_news(situation) if patient else None)
        if waiting is not None and self._waits[situation.robot] < PATIENCE:
            self._waits[situation.robot] += 1
            return waiting
        self._waits[situation.robot] = 0
        agent, allowed = self._speaker(situation)
        view = self.views[agent.name]
        self._unread.pop(agent.name, None)
        messages = view.messages()
        facts = () if self.settings.observations == "shared" else tuple(view.untold)
        rest = [step for robot, steps in self.context.plans.items() if robot != agent.robot for step in steps]
        offered = self._without_waiting(agent.robot, allowed)
        return Turn(agent, messages, facts, tuple(self.merger.claims(rest)), allowed, offered)

    def news(self) -> tuple[str, list[Message]] | None:
        """A planner whose robot has seen something, and its chat up to now, as its next question begins.

        Each is named once for what is new, the one that waits longest first; None: nothing is new. What others told it
        since its last call is not in the chat: that comes behind what its robot sees until then.
        """
        self.take_in()
        name = next(iter(self._unread), None)
        if name is None:
            return None
        del self._unread[name]
        return name, self.views[name].rendered().messages

    def conclude(self, turn: Turn, text: str, answer: Answer | str, generation: Generation | None) -> Plan:
        """The plan of the robot after an answer was merged; the others are told.

        Args:
            text: the answer as it was written.
            answer: what it says, or what is wrong with it.
        """
        name, robot = turn.agent.name, turn.agent.robot
        if isinstance(answer, str):
            return self.plan(name, text=text, problem=answer, generation=generation, messages=turn.messages)
        view = self.views[name]
        for subject in answer.observations:
            self._tell(name, view.untold.pop(subject))
        done = {other: list(commands) for other, commands in self._done.items()}
        merged = self.merger.merge(robot, answer.patches, self.context.plans, left=answer.conflicts, done=done)
        steps = merged.steps
        if steps and self.merger.awaited(steps[0], [step for some in done.values() for step in some]):
            steps = (self.settings.wait, *steps)  # the first command of a new plan is always tried
        problem = None
        if not steps:
            can_wait = self.settings.wait in turn.situation.skills
            steps = (self.settings.wait,) if can_wait else ()
            problem = None if can_wait else "; ".join(map(str, merged.conflicts))
        if steps and self._plans.get(name) != steps:  # nobody needs to hear again that a robot goes on waiting
            self._tell(name, self._said(f"{PLAN_OF}{name}", f"{name} plans: {', '.join(steps)}"))
        self._plans[name] = steps
        for conflict in merged.conflicts:
            self._tell_conflict(conflict)
        conflicts = tuple(map(str, merged.conflicts))
        return self.plan(
            name,
            steps,
            text=text,
            problem=problem,
            generation=generation,
            others=merged.others,
            conflicts=conflicts,
            messages=turn.messages,
        )

    def plan(self, agent: str, steps: tuple[str, ...] = (), **more: Any) -> Plan:
        """A plan of one of the team; `more` are further fields of it."""
        return Plan(steps, agent=agent, team=len(self.agents), **more)

    def take_in(self) -> None:
        """Give the records since the last turn to the planners that they belong to."""
        records = self.context.records
        command = ""
        for record in records[self._read :]:
            if record.kind == "goal":
                for view in self.views.values():
                    view.context.add("goal", record.text, step=record.step)
                self.merger.new_goal(record.text)
            elif record.agent in self.views:
                command = self._own(record, command)
        self._read = len(records)

    # ---- inside

    def _own(self, record: Record, command: str) -> str:
        """Note what a planner's robot did or saw; returns the command whose outcome is awaited."""
        view = self.views[record.agent]
        view.context.add(record.kind, record.text, record.subject, step=record.step)
        if record.kind == "action":
            return record.text
        if record.kind == "observation":
            self._unread.setdefault(record.agent)
            if command:
                self._done[view.agent.robot][command] = None
            if record.subject:
                seen = Contribution(record.subject, f"{record.agent}: {record.text}", record.step)
                view.saw(seen)
                if self.settings.observations == "shared":
                    self._tell(record.agent, seen)
        return ""

    def _tell(self, teller: str, told: Contribution) -> None:
        for name, view in self.views.items():
            if name != teller:
                view.inbox.put(told)

    def _tell_conflict(self, conflict: Conflict) -> None:
        for view in self.views.values():
            if view.agent.robot in (conflict.keeps, conflict.yields):
                view.inbox.put(self._said(f"conflict about {conflict.thing}", f"Conflict: {conflict}."))

    def _said(self, subject: str, text: str) -> Contribution:
        return Contribution(subject, text, self.context.records[-1].step)

    def _speaker(self, situation: Situation) -> tuple[AgentSettings, Situation]:
        """The next planner of the robot that may command something now, and what it may."""
        agents = [agent for agent in self.agents if agent.robot == situation.robot]
        first = self._turns[situation.robot]
        for number in range(first, first + len(agents)):
            agent = agents[number % len(agents)]
            allowed = _allowed(agent, situation)
            if allowed.skills:
                self._turns[situation.robot] = (number + 1) % len(agents)
                return agent, allowed
        return agents[first], _allowed(agents[first], situation)

    def _without_waiting(self, robot: str, allowed: Situation) -> Situation:
        """The situation without the command to wait, if all other robots' last plans are nothing else.

        Robots that wait for each other's news would wait for ever: there is none while nobody moves.
        """
        skills = tuple(skill for skill in allowed.skills if skill != self.settings.wait)
        return replace(allowed, skills=skills) if skills and self._others_wait(robot) else allowed

    def _others_wait(self, robot: str) -> bool:
        others = [agent.name for agent in self.agents if agent.robot != robot]
        return bool(others) and all(self._plans.get(name) == (self.settings.wait,) for name in others)

    def _goes_on_waiting(self, situation: Situation) -> Plan | None:
        robot = situation.robot
        rest = tuple(self.context.plans.get(robot, ()))
        if self.context.trigger != "contradicted" or not rest or self.settings.wait not in situation.skills:
            return None
        done = [step for some in self._done.values() for step in some]
        others = [step for other, steps in self.context.plans.items() if other != robot for step in steps]
        awaited = self.merger.awaited(rest[0], done)
        if not awaited or self.merger.awaited(rest[0], [*done, *others]):
            return None  # it waits for nothing, or for what nobody has planned
        reason = f"{rest[0]} waits for {awaited[0]}, which another robot has planned"
        return self._held(robot, rest, reason)

    def _waits_for_news(self, situation: Situation) -> Plan | None:
        robot, wait = situation.robot, self.settings.wait
        names = [agent.name for agent in self.agents if agent.robot == robot]
        if len(names) != 1 or self._plans.get(names[0]) != (wait,) or wait not in situation.skills:
            return None
        if self.context.trigger != "finished" or self._others_wait(robot) or self.views[names[0]].inbox.news(PLAN_OF):
            return None
        return self._held(robot, (), "it waits, and nothing but plans of others is new")

    def _held(self, robot: str, rest: tuple[str, ...], reason: str) -> Plan:
        """A plan to wait that no planner was asked for."""
        agent = next(agent.name for agent in self.agents if agent.robot == robot)
        held = Generation("", "deferred", decision=Decision("defer", reason))
        return self.plan(agent, (self.settings.wait, *rest), generation=held)


def _allowed(agent: AgentSettings, situation: Situation) -> Situation:
    """The part of a situation that an agent may command."""
    if agent.may is None:
        return situation
    skills = tuple(skill for skill in situation.skills if _may(agent.may, skill))
    return replace(situation, skills=skills, templates=tuple(agent.may))


def _may(shapes: Sequence[str], skill: str) -> bool:
    return any(bindings(skill, shape) is not None for shape in shapes)
