"""Goals of an episode: how many objects of which kinds have to lie at which place, drawn and judged."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from erecap.envs.draws import UselessDraw
from erecap.envs.pyrobosim.options import TaskKind
from erecap.envs.pyrobosim.simulation import Hallway, Object, ObjectSpawn, Simulation
from erecap.envs.words import with_article

_WANTED = {"search": "objects that lie in closed furniture only", "order": "objects of two kinds"}


@dataclass(frozen=True)
class Goal:
    """So many objects of each category at one place."""

    kind: TaskKind
    wants: tuple[tuple[str, int], ...]  # (category, how many), sorted
    place: str  # name in commands
    sentence: str
    order: tuple[str, ...] = ()  # categories in the order in which they have to be put there; (): any order

    def missing(self, simulation: Simulation) -> dict[str, int]:
        """Number of objects of each category that are not at the place yet."""
        there = Counter(item.category for item in simulation.names[self.place].children)
        return {category: max(0, count - there[category]) for category, count in self.wants}

    def progress(self, simulation: Simulation) -> float:
        """Share of the wanted objects that are at the place."""
        wanted = sum(count for _, count in self.wants)
        return 1.0 - sum(self.missing(simulation).values()) / wanted

    def out_of_order(self, simulation: Simulation, item: Object, place: ObjectSpawn) -> str:
        """The reason why an object may not be put at a place yet; "" if it may."""
        if simulation.name(place) != self.place or item.category not in self.order:
            return ""
        missing = self.missing(simulation)
        earlier = next((kind for kind in self.order if missing[kind]), item.category)
        return "" if earlier == item.category else f"{_article(earlier)} has to lie there first"

    def constraints(self) -> list[str]:
        """The rules of the task: which command has to come before which."""
        put = [f"put {_word(category)} on {self.place}" for category in self.order]
        return [f"{first} before {second}" for first, second in pairwise(put)]

    def allowed(self, simulation: Simulation, robots: int) -> set[str]:
        """Categories that may be fetched now: in an ordered task no more than there are robots, the first ones.

        So the next one due is never missing because every gripper holds a later one.
        """
        missing = self.missing(simulation)
        due = [kind for kind in self.order if missing[kind]]
        return set(due[:robots]) if self.order else set(missing)


def draw_goal(simulation: Simulation, kind: TaskKind, gather: int, rng: random.Random) -> Goal:
    """Draw a goal that the robots can reach and that is not met yet.

    Args:
        kind: `place` ends in a closed place, the others at an open one. `search` wants objects that lie in closed
            places, of categories that are nowhere else; `order` wants objects of several categories one by one.
        gather: how many objects `gather`, `search` and `order` want at most.

    Raises:
        UselessDraw: the world has no such goal.
    """
    rooms = _enterable(simulation)
    places = [place for place in simulation.places if _usable(simulation, place, rooms)]
    items = sorted((item for place in places for item in place.children), key=lambda item: item.name)
    choices: list[tuple[ObjectSpawn, list[Object]]] = []
    for place in sorted(places, key=lambda place: place.name):
        there = {item.category for item in place.children}
        wanted = [item for item in items if item.category not in there]
        if kind == "search":
            shown = {item.category for item in items if item.parent.is_open}
            wanted = [item for item in wanted if item.category not in shown]
        if kind == "order":
            wanted = list({item.category: item for item in reversed(wanted)}.values())[::-1]
        least = 2 if kind in ("gather", "order") else 1
        if place.is_open == (kind != "place") and not place.parent.is_charger and len(wanted) >= least:
            choices.append((place, wanted))
    if not choices:
        ends = "closed place that opens" if kind == "place" else "open place"
        why = f"the world has no {ends} to which {_WANTED.get(kind, 'objects')} can be brought"
        raise UselessDraw(f"pyrobosim: {why}; leave out the task {kind}")
    place, wanted = rng.choice(choices)
    chosen = rng.sample(wanted, min(gather, len(wanted)) if kind in ("gather", "search", "order") else 1)
    wants = tuple(sorted(Counter(item.category for item in chosen).items()))
    where = f"{'in' if kind == 'place' else 'on'} {simulation.name(place)}"
    where += f" in the {simulation.name(simulation.room_of(place))}"
    if kind == "order":
        order = tuple(item.category for item in chosen)
        things = ", then ".join(_article(category) for category in order)
        return Goal(kind, wants, simulation.name(place), f"Put {things} {where}, in this order.", order)
    begin = f"Find {_listed(wants)} and put all" if kind == "search" else f"Put {_listed(wants)}"
    return Goal(kind, wants, simulation.name(place), f"{begin} {where}.")


def _enterable(simulation: Simulation) -> set[str]:
    """Names of the rooms that every robot can come to, opening doors."""
    found = []
    for robot in simulation.robots:
        rooms, border = {simulation.room_of(robot).name}, [simulation.room_of(robot)]
        while border:
            for hallway in border.pop().hallways:
                for other in (hallway.room_start, hallway.room_end):
                    if _passable(hallway) and other.name not in rooms:
                        rooms.add(other.name)
                        border.append(other)
        found.append(rooms)
    return set.intersection(*found)


def _passable(hallway: Hallway) -> bool:
    return bool(hallway.is_open or not hallway.is_locked)


def _usable(simulation: Simulation, place: ObjectSpawn, rooms: set[str]) -> bool:
    opens = place.is_open or not place.parent.is_locked
    return bool(opens and place.nav_poses and simulation.room_of(place).name in rooms)


def _word(category: str) -> str:
    return category.replace("_", " ").encode("ascii", "replace").decode()


def _article(category: str) -> str:
    return with_article(_word(category))


def _listed(wants: tuple[tuple[str, int], ...]) -> str:
    parts = []
    for category, count in wants:
        parts.append(_article(category) if count == 1 else f"{count} {_word(category)}s")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
