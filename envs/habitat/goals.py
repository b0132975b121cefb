"""Goals of an episode: points and objects that are to be found, objects that are to be brought; drawn and judged."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from erecap.envs.habitat.directions import Pose
from erecap.envs.habitat.houses.house import House, Point, Thing
from erecap.envs.habitat.options import POINT_WITHIN, THING_WITHIN, TaskKind
from erecap.envs.habitat.robot import Outcome, Robot
from erecap.envs.words import with_article

NEAREST, FARTHEST = 3.0, 40.0  # geodesic metres from the start to the first goal


@dataclass(frozen=True)
class Goal:
    """One goal.

    A point, or any of several things (`targets`), is to be found; with a `surface`, one of the things is to be brought
    there.
    """

    words: str  # "the red chair"
    sentence: str
    targets: tuple[str, ...] = ()  # ids
    surface: str = ""  # id
    point: Point | None = None
    views: tuple[Point, ...] = ()  # where one has to stand, if an episode file says so; else beside a target

    def regions(self, robot: Robot) -> list[list[float]]:
        """Points of the floor at which the goal is reached."""
        if self.point is not None:
            return [list(self.point)]
        if self.views:
            return [list(view) for view in self.views]
        return [point for which in self.targets for point in robot.approach(robot.ids[which], robot.where[which])]

    def distance(self, robot: Robot) -> float:
        """Geodesic metres from the robot to the goal; infinite where there is no way."""
        metres = robot.ask("distances", groups=[self.regions(robot)])["metres"][0]
        return math.inf if metres is None else float(metres)

    def brought(self, robot: Robot) -> bool:
        """True if one of the things lies where it is wanted."""
        return any(robot.where[which].on == self.surface for which in self.targets) and not self._held(robot)

    def progress(self, robot: Robot) -> float:
        """Half for what is held, all for what was brought."""
        return 1.0 if self.brought(robot) else 0.5 if self._held(robot) else 0.0

    def _held(self, robot: Robot) -> bool:
        return robot.held is not None and robot.things[robot.held].id in self.targets


def described(thing: Thing, things: Sequence[Thing]) -> tuple[str, tuple[str, ...]]:
    """A thing by colour and category, with "the" where it is the only one, and the ids of all that fit these words."""
    kind = f"{thing.colour} {thing.category}".strip()
    same = tuple(
        sorted(other.id for other in things if (other.colour, other.category) == (thing.colour, thing.category))
    )
    return f"the {kind}" if len(same) == 1 else with_article(kind), same


def find_goal(thing: Thing, house: House) -> Goal:
    """The goal to find a thing, or another one of its colour and category."""
    words, targets = described(thing, house.things)
    return Goal(words, f"Find {words}.", targets)


def point_goal(start: Pose, point: Point) -> Goal:
    """The goal to reach a point, told from the start."""
    return Goal("the goal", f"Go to the goal, {start.offset_words(point)} from where you start.", point=point)


def fetch_goal(thing: Thing, surface: Thing, house: House) -> Goal:
    """The goal to bring a thing to a piece of furniture."""
    words, targets = described(thing, house.things)
    room = f" in the {surface.room}" if surface.room else ""
    return Goal(words, f"Put {words} on the {surface.name}{room}.", targets, surface=surface.id)


def draw_goals(
    kind: TaskKind, robot: Robot, points: Sequence[Point], goals: tuple[int, int], rng: random.Random
) -> tuple[Goal, ...] | None:
    """Draw the goals of an episode; None if the house has none for the robot's start.

    Args:
        kind: of task.
        points: points of the floor, for `pointnav`.
        goals: fewest and most goals of a tour or chain.
    """
    house = robot.house
    if kind == "pointnav":
        metres = robot.ask("distances", groups=[[list(point)] for point in points])["metres"]
        far = [
            point
            for point, away in zip(points, metres, strict=True)
            if away is not None and NEAREST <= away <= FARTHEST
        ]
        return (point_goal(robot.start, rng.choice(far)),) if far else None
    things = sorted(house.things, key=lambda thing: thing.id)
    if kind == "fetch":
        return _draw_fetch(robot, things, rng)
    count = 1 if kind == "objectnav" else rng.randint(*goals)
    chosen: list[Thing] = []
    drawn: list[Goal] = []
    for thing in rng.sample(things, len(things)):
        goal = find_goal(thing, house)
        again = any(goal.targets == other.targets for other in drawn)
        near = bool(chosen) and bool(thing.room) and thing.room == chosen[-1].room
        if again or near or (not chosen and not NEAREST <= goal.distance(robot) <= FARTHEST):
            continue
        if not robot.approach(thing, robot.where[thing.id]):
            continue
        chosen.append(thing)
        drawn.append(goal)
        if len(drawn) == count:
            return tuple(drawn)
    return None


def _draw_fetch(robot: Robot, things: Sequence[Thing], rng: random.Random) -> tuple[Goal, ...] | None:
    house = robot.house
    surfaces = [thing for thing in things if thing.receptacle]
    for thing in rng.sample(things, len(things)):
        if not thing.movable:
            continue
        goal = find_goal(thing, house)
        taken = {robot.where[which].on for which in goal.targets}
        free = [surface for surface in surfaces if surface.id not in taken and _fits(thing, surface)]
        if free and NEAREST <= goal.distance(robot) <= FARTHEST:
            return (fetch_goal(thing, rng.choice(free), house),)
    return None


def _fits(thing: Thing, surface: Thing) -> bool:
    return thing.size[0] <= surface.size[0] and thing.size[2] <= surface.size[2]


class Course:
    """The goals of an episode in their order, the robot that follows them, and how far they are fulfilled.

    Args:
        kind: of task.
        within: success distance, metres; None: that of the kind.
    """

    def __init__(self, kind: TaskKind, goals: tuple[Goal, ...], robot: Robot, within: float | None) -> None:
        self.kind, self.goals, self.robot, self.done = kind, goals, robot, 0
        self.within = within or (POINT_WITHIN if kind == "pointnav" else THING_WITHIN)
        self.stops = 0  # said elsewhere than at the goal

    @property
    def current(self) -> Goal | None:
        """The goal of now; None: all are fulfilled."""
        return self.goals[self.done] if self.done < len(self.goals) else None

    @property
    def sentence(self) -> str:
        """The mission in words; in a chain, the part that is known."""
        if self.kind == "tour":
            named = ", then ".join(goal.words for goal in self.goals)
            return f"Go to {named}, in this order, and stop at each."
        return self.goals[min(self.done, len(self.goals) - 1)].sentence

    @property
    def progress(self) -> float:
        """Share of the goals that are fulfilled."""
        part = self.current.progress(self.robot) if self.current is not None and self.current.surface else 0.0
        return (self.done + part) / len(self.goals)

    @property
    def way_left(self) -> float:
        """Geodesic metres from the robot to the goals that are left, one after the other."""
        metres, start = 0.0, None
        for goal in self.goals[self.done :]:
            for regions in self._stations(goal):
                if not regions:
                    return math.inf
                where = {} if start is None else {"start": start}
                answer = self.robot.ask("distances", groups=[regions], **where)
                if answer["metres"][0] is None:
                    return math.inf
                metres, start = metres + answer["metres"][0], answer["ends"][0]
        return metres

    def perform(self, command: str) -> Outcome:
        """Let the robot carry out a command, and tell what that means for the goals."""
        outcome, goal = self.robot.perform(command), self.current
        if goal is None or outcome.failure:
            return outcome
        if outcome.stopped:
            if goal.distance(self.robot) >= self.within:
                self.stops += 1
                why = f"you have not reached {goal.words}"
                return Outcome(f"You stop, but {why}.", why)
        elif not goal.surface or not goal.brought(self.robot):
            return outcome
        self.done += 1
        left = self.current
        if left is None:
            told = "Done."
        elif self.kind == "tour":
            told = f"Done. Next is {left.words}."
        else:
            told = f"Done. Your next task is: {left.sentence}"
        return Outcome(f"{outcome.text} {told}", subject=outcome.subject)

    def _stations(self, goal: Goal) -> list[list[list[float]]]:
        """Regions of the floor to which a goal leads, in order."""
        robot = self.robot
        held = robot.held is not None and robot.things[robot.held].id in goal.targets
        regions = [] if held else [goal.regions(robot)]
        if goal.surface:
            surface = robot.ids[goal.surface]
            regions.append(robot.approach(surface, robot.where[surface.id]))
        return regions
