"""Goals of an episode: how many objects of which kinds have to lie at which place, drawn and judged."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from erecap.envs.pyrobosim.options import TaskKind
from erecap.envs.pyrobosim.simulation import Hallway, Object, ObjectSpawn, Simulation
from erecap.errors import GameError


@dataclass(frozen=True)
class Goal:
    """So many objects of each category at one place."""

    kind: TaskKind
    wants: tuple[tuple[str, int], ...]  # (category, how many), sorted
    place: str  # name in commands
    sentence: str

    def missing(self, simulation: Simulation) -> dict[str, int]:
        """Number of objects of each category that are not at the place yet."""
        there = Counter(item.category for item in simulation.names[self.place].children)
        return {category: max(0, count - there[category]) for category, count in self.wants}

    def progress(self, simulation: Simulation) -> float:
        """Share of the wanted objects that are at the place."""
        wanted = sum(count for _, count in self.wants)
        return 1.0 - sum(self.missing(simulation).values()) / wanted


def draw_goal(simulation: Simulation, kind: TaskKind, gather: int, rng: random.Random) -> Goal:
    """Draw a goal that the robots can reach and that is not met yet.

    Args:
        kind: `fetch` and `gather` end at an open place, `place` in a closed one.
        gather: how many objects `gather` wants at most.

    Raises:
        GameError: the world has no such goal.
    """
    rooms = _enterable(simulation)
    places = [place for place in simulation.places if _usable(simulation, place, rooms)]
    items = sorted((item for place in places for item in place.children), key=lambda item: item.name)
    choices: list[tuple[ObjectSpawn, list[Object]]] = []
    for place in sorted(places, key=lambda place: place.name):
        there = {item.category for item in place.children}
        wanted = [item for item in items if item.category not in there]
        least = 2 if kind == "gather" else 1
        if place.is_open == (kind != "place") and not place.parent.is_charger and len(wanted) >= least:
            choices.append((place, wanted))
    if not choices:
        ends = "closed place that opens" if kind == "place" else "open place"
        why = f"the world has no {ends} to which objects can be brought"
        raise GameError(f"pyrobosim: {why}; leave out the task {kind}")
    place, wanted = rng.choice(choices)
    chosen = rng.sample(wanted, min(gather, len(wanted)) if kind == "gather" else 1)
    wants = tuple(sorted(Counter(item.category for item in chosen).items()))
    where = f"{'in' if kind == 'place' else 'on'} {simulation.name(place)}"
    sentence = f"Put {_listed(wants)} {where} in the {simulation.name(simulation.room_of(place))}."
    return Goal(kind, wants, simulation.name(place), sentence)


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


def _listed(wants: tuple[tuple[str, int], ...]) -> str:
    parts = []
    for category, count in wants:
        word = category.replace("_", " ").encode("ascii", "replace").decode()
        article = "an" if word[0] in "aeiou" else "a"
        parts.append(f"{article} {word}" if count == 1 else f"{count} {word}s")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
