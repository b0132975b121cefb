"""The robot of an episode: what it has seen, which commands are admissible, and carrying them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from erecap.envs import commands
from erecap.envs.commands import Impossible
from erecap.envs.habitat.client import Connection
from erecap.envs.habitat.commands import FETCHING, NAVIGATION, parse
from erecap.envs.habitat.directions import Pose
from erecap.envs.habitat.exploration import Explored, Floor, Frontier
from erecap.envs.habitat.houses.house import House, Point, Room, Thing
from erecap.envs.words import find_name, plain

REACH = 1.5  # metres from the robot to what it picks up or lays down, along the floor plan
POINT = "goal"  # name of a point that is to be found, as a place
EYE = 1.25  # metres


@dataclass(frozen=True)
class Outcome(commands.Outcome):
    """The outcome of one command."""

    stopped: bool = False  # the robot says that it has arrived


@dataclass(frozen=True)
class Place:
    """Where a thing is, or was seen."""

    centre: Point
    on: str = ""  # id of the receptacle


@dataclass
class Knowledge:
    """Places, rooms and things that the robot has seen, as it saw them last."""

    things: dict[str, Place] = field(default_factory=dict)  # by name
    rooms: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)  # things ever seen


class Robot:
    """A robot that acts by commands in words and knows only what it has seen.

    Args:
        connection: in which the scene is open.
        house: what is in the scene.
        start: [x, y, z] on navigable floor.
        turned: `yaw` in degrees, or `rotation` as [x, y, z, w].
        fetching: it may pick up and put, instead of stopping where it has arrived.
    """

    def __init__(
        self,
        connection: Connection,
        house: House,
        start: Point,
        turned: Mapping[str, Any],
        *,
        fetching: bool,
    ) -> None:
        self.ask, self.house, self.fetching = connection.ask, house, fetching
        self.point: Point | None = None  # that is to be found, shown as the place `goal` once its floor was seen
        self.things = {thing.name: thing for thing in house.things}
        self.ids = {thing.id: thing for thing in house.things}
        self.where = {thing.id: Place(thing.centre, thing.on) for thing in house.things}
        self.known = Knowledge()
        self.held: str | None = None  # name
        self.at: str | None = None  # the place that it went to last
        self.visited: set[str] = set()  # places that it went to
        self.touched: set[str] = set()  # ids of what it has held
        self.looked_in: set[str] = set()  # rooms in which it has looked around; "" where there is none
        self.metres = 0.0
        self.pose = self._posed(self.ask("begin", position=list(start), **turned))
        self.start = self.pose
        self._trail: list[Point] = [self.pose.position]
        self.explored = Explored(Floor.of_answer(self.ask("map"), self.pose.position[1]))
        self.shown: dict[str, set[str]] = {}  # subject -> names that were seen when it was last shown
        self._last = self._take_in(self.ask("look"))

    # ---- what is admissible

    @property
    def templates(self) -> tuple[str, ...]:
        """Shapes of the commands."""
        return FETCHING if self.fetching else NAVIGATION

    def skills(self) -> list[str]:
        """Commands that are admissible now, by what the robot knows."""
        commands = ["look around"]
        commands += [f"explore {frontier.name}" for frontier in self.explored.frontiers]
        commands += [f"go to {name}" for name in self.places() if name not in (self.at, self.held)]
        if not self.fetching:
            return [*commands, "stop"]
        if self.held is None:
            near = [name for name in sorted(self.known.things) if self.things[name].movable and self.in_reach(name)]
            return commands + [f"pick up {name}" for name in near]
        return commands + [f"put {self.held} on {name}" for name in self.surfaces() if self.in_reach(name)]

    def entities(self) -> dict[str, list[str]]:
        """Slot of the templates -> names seen so far that can fill it, sorted."""
        slots = {
            "frontier": sorted(frontier.name for frontier in self.explored.frontiers),
            "place": sorted(self.known.named | set(self.places())),
        }
        if self.fetching:
            slots["item"] = sorted(name for name in self.known.named if self.things[name].movable)
            slots["surface"] = self.surfaces()
        return slots

    def places(self) -> list[str]:
        """Names of what was seen and can be gone to, sorted."""
        point = [POINT] if self.point is not None and self.explored.has_seen(self.point[0], self.point[2]) else []
        return sorted([*self.known.things, *self.known.rooms, *point])

    def surfaces(self) -> list[str]:
        """Furniture seen that objects lie on, sorted."""
        return sorted(name for name in self.known.things if self.things[name].receptacle)

    def in_reach(self, name: str) -> bool:
        """True if the nearest part of a thing, where it was seen, is in reach."""
        (x, _, z), (width, _, depth) = self.known.things[name].centre, self.things[name].size
        here = self.pose.position
        nearest = (
            min(max(here[0], x - width / 2), x + width / 2),
            0.0,
            min(max(here[2], z - depth / 2), z + depth / 2),
        )
        return self.pose.metres(nearest) <= REACH

    def take_trail(self) -> list[tuple[float, float]]:
        """Points (x, z) that the robot has passed since this was last asked; the last is where it stands."""
        passed, self._trail = self._trail, [self.pose.position]
        return [(round(x, 3), round(z, 3)) for x, _, z in passed]

    def room(self) -> Room | None:
        """The room in which the robot stands."""
        x, _, z = self.pose.position
        return next((room for room in self.house.rooms if room.holds(x, z, 0.15)), None)

    # ---- carrying commands out

    def perform(self, text: str) -> Outcome:
        """Carry out a command. Never raises for what a planner may write: see `Outcome.failure`."""
        command = parse(text)
        if command is None or (command.verb in ("pick up", "put") and not self.fetching):
            said = f"Nothing happens: {plain(text)!a} is no command; commands are: {', '.join(self.templates)}."
            return Outcome(said, "no such command")
        frontiers = [frontier.name for frontier in self.explored.frontiers]
        names = [find_name(name, [*self.things, *frontiers, *self.known.rooms, POINT]) for name in command.names]
        try:
            return getattr(self, f"_{command.verb.replace(' ', '_')}")(*names)
        except Impossible as reason:
            return Outcome(f"You cannot {plain(text)}: {reason}.", str(reason))

    def describe(self) -> Outcome:
        """The present view, with nothing done."""
        return Outcome(self._view(self._last))

    def _look(self) -> Outcome:
        answer = self.ask("look", around=True)
        seen = self._take_in(answer)
        room = self.room()
        name = room.name if room else ""
        self.looked_in.add(name)
        return Outcome(f"You look around. {self._view(seen)}", subject=self._subject(name, seen))

    def _stop(self) -> Outcome:
        if self.fetching:
            raise Impossible("the task is done when the object is at its place")
        return Outcome("You stop.", stopped=True)

    def _explore(self, name: str) -> Outcome:
        frontier = next((frontier for frontier in self.explored.frontiers if frontier.name == name), None)
        if frontier is None:
            raise Impossible(f"there is no {name} now")
        new = self._walk([list(frontier.point)])
        seen = self._take_in(self.ask("face", point=list(frontier.beyond)))
        if self._still_there(frontier):
            seen |= self._take_in(self.ask("look", around=True))
        for left in self._still_there(frontier):
            self.explored.give_up(left.name)
        return Outcome(f"You go to {name}. {self._on_the_way(new - seen)}{self._view(seen)}")

    def _go_to(self, name: str) -> Outcome:
        if name not in self.places():
            raise Impossible(f"you have seen no place {name}")
        if name in (self.at, self.held):
            raise Impossible("you are there already" if name == self.at else "you hold it")
        before = self.metres
        if name in self.things:
            seen = self._go_to_thing(name)
        else:
            seen = self._walk([self._floor_of(name)])
        self.at = name
        self.visited.add(name)
        text = f"You go {self.metres - before:.1f} m to {name}. {self._view(seen)}"
        return Outcome(text, subject=self._subject(name, seen))

    def _pick_up(self, name: str) -> Outcome:
        if name not in self.known.named:
            raise Impossible(f"you have seen no {name}")
        if self.held is not None:
            raise Impossible(f"you hold {self.held}")
        thing = self.things[name]
        if not thing.movable:
            raise Impossible("it cannot be picked up")
        if name not in self.known.things or not self.in_reach(name):
            raise Impossible("it is not in reach")
        self._need_as_known(name)
        self.ask("hold", id=thing.id)
        base = self._base_name(name)
        self.held = name
        self.touched.add(thing.id)
        del self.known.things[name]
        return Outcome(f"You pick up {name}{base and f' from {base}'}.", subject=name)

    def _put(self, name: str, where: str) -> Outcome:
        if self.held is None or self.held != name:
            raise Impossible(f"you do not hold {name}")
        if where not in self.known.things or not self.things[where].receptacle:
            raise Impossible(f"you have seen no place {where}")
        if not self.in_reach(where):
            raise Impossible(f"{where} is not in reach")
        thing, base = self.things[name], self.things[where]
        centre = self.ask("put", id=thing.id, on=base.id)["centre"]
        if centre is None:
            raise Impossible(f"there is no room on {where}")
        self.held = None
        self.where[thing.id] = self.known.things[name] = Place(tuple(centre), base.id)
        return Outcome(f"You put {name} on {where}.", subject=name)

    def displace(self, thing: Thing, surface: Thing) -> bool:
        """Lay a thing somewhere else by itself; False if there is no room for it."""
        near = self.where[surface.id].centre
        centre = self.ask("put", id=thing.id, on=surface.id, near=list(near))["centre"]
        if centre is not None:
            self.where[thing.id] = Place(tuple(centre), surface.id)
        return centre is not None

    # ---- what these are made of

    def approach(self, thing: Thing, place: Place) -> list[list[float]]:
        """Points on the floor from which a thing can be had where it is, the nearest first."""
        base = self.ids[place.on] if place.on else thing
        middle = self.where[place.on].centre if place.on else place.centre
        box = {
            "centre": list(place.centre),
            "size": list(thing.size),
            "base": {"centre": list(middle), "size": list(base.size)},
        }
        reach = REACH - 0.2 if thing.movable else None
        points: list[list[float]] = self.ask("approach", boxes=[box], reach=reach)["points"][0]
        return points

    def _go_to_thing(self, name: str) -> set[str]:
        thing, place = self.things[name], self.known.things[name]
        points = self.approach(thing, place)
        if not points:
            raise Impossible("there is no place to stand before it")
        self._walk(points)
        seen = self._take_in(self.ask("face", point=list(place.centre)))
        self._need_as_known(name)
        return seen

    def _need_as_known(self, name: str) -> None:
        thing = self.things[name]
        if self.known.things[name] != self.where[thing.id]:
            del self.known.things[name]
            raise Impossible("it is not there any more")

    def _floor_of(self, name: str) -> list[float]:
        """A point of the seen floor in the middle of a room, or the goal."""
        if name == POINT and self.point is not None:
            return list(self.point)
        room = next(room for room in self.house.rooms if room.name == name)
        x0, z0, x1, z1 = room.box
        point = self.explored.nearest_seen((x0 + x1) / 2, (z0 + z1) / 2, room.box)
        if point is None:
            raise Impossible("you have seen no floor there")
        return list(point)

    def _walk(self, points: list[list[float]]) -> set[str]:
        """Walk to the nearest of several points; names of what was seen on the way and at the end."""
        answer = self.ask("go", to=points)
        self.metres += answer["metres"]
        self._trail += [tuple(point) for point in answer["trace"]]
        self.at = None if answer["actions"] else self.at
        before = set(self.known.named)
        seen = self._take_in(answer)
        if not answer["reached"]:
            raise Impossible(answer["why"])
        return seen | (self.known.named - before)

    def _take_in(self, answer: Mapping[str, Any]) -> set[str]:
        """Note what was seen; names of what is in sight at the end, or all round."""
        self.pose = self._posed(answer)
        glimpses = answer["glimpses"]
        self.explored.add(glimpses)
        for glimpse in glimpses:
            for which in glimpse["seen"]:
                name = self.ids[which].name
                self.known.things[name] = self.where[which]
                self.known.named.add(name)
            x, _, z = glimpse["position"]
            self.known.rooms |= {room.name for room in self.house.rooms if room.holds(x, z)}
        shown = glimpses if answer.get("around", "trace" not in answer) else glimpses[-1:]
        self._last = {self.ids[which].name for glimpse in shown for which in glimpse["seen"]}
        return set(self._last)

    def _still_there(self, frontier: Frontier) -> list[Frontier]:
        """Frontiers beside the robot that are left of one that it went to."""
        return [left for left in self.explored.frontiers if self.pose.metres(left.point) < 0.6]

    def _subject(self, name: str, seen: Iterable[str]) -> str:
        """The name, unless less is seen of it now than when it was last shown."""
        names = set(seen)
        if not name or not names >= self.shown.get(name, set()):
            return ""
        self.shown[name] = names
        return name

    def _base_name(self, name: str) -> str:
        on = self.where[self.things[name].id].on
        return self.ids[on].name if on else ""

    @staticmethod
    def _posed(answer: Mapping[str, Any]) -> Pose:
        x, y, z = answer["position"]
        return Pose((x, y, z), answer["yaw"])

    # ---- in words

    def _view(self, seen: set[str]) -> str:
        """Room, what is seen, where seen floor ends, and where the goal is."""
        room, pose = self.room(), self.pose
        parts = [f"You are in the {room.name}."] if room else []
        parts.append(f"You see: {self._listed(seen)}." if seen else "You see nothing in particular.")
        ends = sorted(self.explored.frontiers, key=lambda frontier: pose.metres(frontier.point))
        if ends:
            parts.append("Unexplored: " + ", ".join(f"{end.name} {pose.words(end.point)}" for end in ends) + ".")
        else:
            parts.append("Everything is explored.")
        if self.point is not None:
            parts.append(f"The goal is {pose.words(self.point)}.")
        if self.held is not None:
            parts.append(f"You hold {self.held}.")
        return " ".join(parts)

    def _listed(self, seen: set[str]) -> str:
        """Things with distance and direction, the nearest first; what lies on one of them, with it."""
        held_by: dict[str, list[str]] = {}
        for name in sorted(seen):
            base = self._base_name(name)
            if base in seen:
                held_by.setdefault(base, []).append(name)
        own = [name for name in seen if self._base_name(name) not in seen]
        words = []
        for name in sorted(own, key=lambda name: (self.pose.metres(self.known.things[name].centre), name)):
            base, there = self._base_name(name), self.pose.words(self.known.things[name].centre)
            on = f" on {base}" if base else ""
            with_it = f" with {' and '.join(held_by[name])} on it" if name in held_by else ""
            words.append(f"{name}{on}{with_it} {there}")
        return ", ".join(words)

    def _on_the_way(self, names: set[str]) -> str:
        return f"On the way you saw: {', '.join(sorted(names))}. " if names else ""
