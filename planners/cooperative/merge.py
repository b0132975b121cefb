"""Merging: finds contradictions between a new plan and the plans of other robots, and resolves them by one rule.

Two kinds are found. **Things**: two robots plan for one thing that is exclusive. **Order**: a command comes before
another one that the task wants first. The rule: *the older plan keeps the thing, and the new one ends before it; what
is out of order waits if another robot has planned what it waits for, else the plan ends before it.* A plan that ends
before its first command is to wait. With `tell`, the planner of the older plan is asked first: if it plans for the
thing again, the rule holds; if not, the new plan stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from erecap.planners.templates import bindings

_BEFORE = re.compile(r"(.+) before (.+)")


@dataclass(frozen=True)
class Conflict:
    """A contradiction, and what comes of it."""

    kind: Literal["thing", "order"]
    thing: str  # what both planned for; of an order, the command that has to come first
    keeps: str  # the robot whose plan stands; "" for an order that nobody has planned for
    yields: str  # the robot that gives way or waits
    by: Literal["rule", "planner", "asked"]  # asked: not decided yet, see `tell`

    def __str__(self) -> str:
        if self.kind == "order":
            after = f", which {self.keeps} has planned" if self.keeps else ", which nobody has planned"
            return f"{self.yields} waits for {self.thing}{after}"
        if self.by == "asked":
            return f"{self.thing} is planned for by {self.keeps} and {self.yields}"
        return f"{self.thing} stays with {self.keeps}, {self.yields} gives way"


@dataclass(frozen=True)
class Merged:
    """A plan after merging."""

    steps: tuple[str, ...]  # () where the plan ends before its first command
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # robot -> its plan, where it is another now
    conflicts: tuple[Conflict, ...] = ()


class Merger:
    """The contradictions of one episode's plans.

    Args:
        templates: shapes of the commands.
        exclusive: slots of these shapes whose names only one robot may plan for.
        goal: what it names is nobody's own.
        constraints: rules of the task; those like `put cup before put book` say an order.
        tell: the planner of the older plan is asked before the rule decides.
    """

    def __init__(
        self,
        templates: Sequence[str],
        exclusive: Collection[str],
        goal: str,
        constraints: Sequence[str] = (),
        *,
        tell: bool = False,
    ) -> None:
        self._shapes = [shape for shape in templates if any(f"{{{slot}}}" in shape for slot in exclusive)]
        self.exclusive, self._goal, self._tell = tuple(exclusive), goal, tell
        self._order = [match.groups() for rule in constraints if (match := _BEFORE.fullmatch(rule))]
        self._asked: dict[str, tuple[str, str]] = {}  # thing -> robots of the older plan (it is asked) and of the newer

    def new_goal(self, goal: str) -> None:
        """A goal that takes the place of the one before."""
        self._goal = goal

    def claims(self, steps: Sequence[str]) -> dict[str, int]:
        """Things that a plan is for, with the number of the first command that names each."""
        found: dict[str, int] = {}
        for number, step in enumerate(steps):
            for shape in self._shapes:
                for slot, name in bindings(step, shape) or ():
                    if slot in self.exclusive and not re.search(rf"\b{re.escape(name)}\b", self._goal):
                        found.setdefault(name, number)
        return found

    def awaited(self, step: str, done: Collection[str]) -> list[str]:
        """Commands that the task wants before `step` and that nobody has executed, as the constraints call them."""
        return [
            first
            for first, second in self._order
            if _is(step, second) and not any(_is(command, first) for command in done)
        ]

    def merge(
        self,
        robot: str,
        steps: Sequence[str],
        plans: Mapping[str, Sequence[str]],
        *,
        left: Collection[str] = (),
        done: Mapping[str, Collection[str]] | None = None,
    ) -> Merged:
        """Merge the new plan of `robot` with the older ones of the others.

        Args:
            plans: commands that are not executed yet, by robot.
            left: things that the planner leaves to others.
            done: commands that were executed, by robot.
        """
        done = done or {}
        older = {other: list(rest) for other, rest in plans.items() if other != robot and rest}
        others: dict[str, tuple[str, ...]] = {}
        conflicts: list[Conflict] = []
        mine, end = self.claims(steps), len(steps)
        holders = {thing: other for other, rest in older.items() for thing in self.claims(rest)}
        answered = {thing: newer for thing, (asked, newer) in self._asked.items() if asked == robot}
        for thing in answered:
            del self._asked[thing]
        for thing in left:
            end = min(end, mine.get(thing, end))
            if thing in holders:
                conflicts.append(Conflict("thing", thing, holders[thing], robot, "planner"))
        for thing, number in mine.items():
            other = holders.get(thing)
            if other is None or thing in left:
                continue
            if answered.get(thing) == other and thing not in self.claims(list(done.get(other, ()))):
                # Asked, it plans for it again, and its plan was the older one.
                others[other] = tuple(older[other][: self.claims(older[other])[thing]])
                conflicts.append(Conflict("thing", thing, robot, other, "rule"))
            elif self._tell and thing not in self._asked and thing not in answered:
                self._asked[thing] = (other, robot)
                others[other] = ()  # so that it is asked at its next turn
                conflicts.append(Conflict("thing", thing, other, robot, "asked"))
            else:
                end = min(end, number)
                conflicts.append(Conflict("thing", thing, other, robot, "rule"))
        for thing, newer in answered.items():
            gave_way = Conflict("thing", thing, newer, robot, "planner")
            if thing not in mine and gave_way not in conflicts:
                conflicts.append(gave_way)
        end, found = self._ordered(robot, steps[:end], older, [step for some in done.values() for step in some])
        return Merged(tuple(steps[:end]), others, (*conflicts, *found))

    def _ordered(
        self, robot: str, steps: Sequence[str], older: Mapping[str, Sequence[str]], done: Collection[str]
    ) -> tuple[int, list[Conflict]]:
        """How many commands of a plan stand by the order of the task, and the contradictions in it."""
        found: list[Conflict] = []
        for number, step in enumerate(steps):
            for first in self.awaited(step, [*done, *steps[:number]]):
                planner = next((other for other, rest in older.items() if _planned(first, rest)), "")
                found.append(Conflict("order", first, planner, robot, "rule"))
                if not planner:
                    return number, found
        return len(steps), found


def _is(command: str, words: str) -> bool:
    """Return True for a command with these words in this order, from its first one on: `put cup 1 on table 2` is
    `put cup on table 2`."""
    said = iter(command.split())
    first, *rest = words.split()
    return next(said, "") == first and all(word in said for word in rest)


def _planned(words: str, steps: Sequence[str]) -> bool:
    return any(_is(step, words) for step in steps)
