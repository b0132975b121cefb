"""Skills: commands in words, carried out as low-level moves by a shortest-path follower on what was seen.

A skill runs until it is done, until the way is blocked, or until its cap of moves. It never opens doors or
moves things that it was not told to: that is the planner's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from minigrid.core.actions import Actions
from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

from erecap.envs.babyai import paths
from erecap.envs.babyai.memory import Cell, Memory

TEMPLATES = (
    "explore",
    "go to {object}",
    "pick up {item}",
    "put {item} next to {object}",
    "drop",
    "open {door}",
    "close {door}",
)
"""Slots: {object} everything seen, {item} what can be carried, {door} doors."""

_PATTERNS = {
    verb: re.compile(pattern)
    for verb, pattern in {
        "explore": r"explore",
        "go to": r"go to (.+)",
        "pick up": r"pick up (.+)",
        "put": r"put (.+?) next to (.+)",
        "drop": r"drop",
        "open": r"open (.+)",
        "close": r"close (.+)",
    }.items()
}


class Impossible(Exception):
    """The command cannot be carried out (any further); the message says why, in words for the planner."""


class _Accomplished(Exception):
    """The mission was accomplished by the last low-level move."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one command."""

    text: str  # one sentence for the observation
    failure: str = ""  # why it failed; "" if it did what it says
    subject: str = ""  # the object that it was about


class Body:
    """The agent in its level: low-level moves, what it has seen, how far it went. The expert plays copies."""

    def __init__(self, level: RoomGridLevel, skill_steps: int) -> None:
        self.level = level
        self.memory = Memory()
        self.memory.update(level)
        if level.carrying is not None:
            level.step(level.actions.done)  # moves nothing; the verifier learns what is carried
        self.skill_steps = skill_steps  # cap on low-level moves of one skill
        self.travelled = 0  # cells
        self.touched: set[WorldObj] = set()  # what the agent has ever picked up
        self.success = False
        self._lifted_from: Cell | None = None  # where the object last picked up lay
        self._moves_left = 0
        self._discovered = False  # something came into view for the first time in this skill

    # ---- what is admissible

    def skills(self) -> list[str]:
        """Commands admissible now: for objects seen in this episode that can be reached through open ways."""
        memory, carried = self.memory, self.level.carrying
        reach = self.reach()
        near = {thing: name for thing, name in memory.names.items() if memory.places.get(thing) in reach}
        commands = ["explore"] if any(self._unseen(cell) for cell in reach) else []
        commands += [f"go to {name}" for name in near.values()]
        if carried is None:
            commands += [f"pick up {name}" for thing, name in near.items() if thing.can_pickup()]
        else:
            held = memory.names[carried]
            bare = self.bare()
            commands += [
                f"put {held} next to {name}"
                for thing, name in memory.names.items()
                if thing in memory.places and bare.intersection(paths.neighbours(memory.places[thing]))
            ]
            commands += ["drop"] if bare else []
        for thing, name in near.items():
            if isinstance(thing, Door) and memory.places[thing] != self.cell:
                if thing.is_open:
                    commands.append(f"close {name}")
                elif not thing.is_locked or self._has_key(thing):
                    commands.append(f"open {name}")
        return commands

    def reach(self) -> set[Cell]:
        """Cells that the agent can face, going where it has seen an open way. Includes unseen ones."""
        cells = paths.touchable(self.memory, self.cell)
        if not any(self.memory.passable(cell) for cell in paths.neighbours(self.cell)):
            cells.discard(self.cell)  # it cannot step aside
        return cells

    def bare(self) -> set[Cell]:
        """Bare floor that the agent can face, so that it can put something there."""
        return {cell for cell in self.reach() if self.memory.empty(cell)}

    def entities(self) -> dict[str, list[str]]:
        """Slot of `TEMPLATES` -> names seen so far in this episode, sorted."""
        names = self.memory.names
        return {
            "object": sorted(names.values()),
            "item": sorted(name for thing, name in names.items() if thing.can_pickup()),
            "door": sorted(name for thing, name in names.items() if thing.type == "door"),
        }

    # ---- carrying commands out

    def perform(self, command: str) -> Outcome:
        """Carry out one command. Never raises for what a planner may write: see `Outcome.failure`."""
        self._moves_left, self._discovered = self.skill_steps, False
        words = re.sub(r"\b(the|a|an)\b", " ", command.lower())
        # Shown again in the observation, so kept short and plain whatever a planner wrote.
        words = " ".join(words.split()).rstrip(".")[:100].encode("ascii", "replace").decode()
        for verb, pattern in _PATTERNS.items():
            match = pattern.fullmatch(words)
            if match:
                subject = match.group(1) if match.groups() else ""
                try:
                    text = getattr(self, f"_{verb.replace(' ', '_')}")(*match.groups())
                except Impossible as reason:
                    return Outcome(f"You cannot {words}: {reason}.", failure=str(reason), subject=subject)
                except _Accomplished:
                    return Outcome("The mission is accomplished.", subject=subject)
                return Outcome(text, subject=subject)
        text = f"Nothing happens: {words!a} is no command; commands are: {', '.join(TEMPLATES)}."
        return Outcome(text, failure="no such command")

    def _explore(self) -> str:
        while not self._discovered:
            way = paths.nearest(self.memory, self.pose, self._unseen)
            if way is None and self._moves_left == self.skill_steps:
                raise Impossible("you have seen all that can be reached through open doors")
            if way is None or self._moves_left <= 0:
                return "You explore, and nothing new comes into view."
            self._act(way[0][0])  # never empty: the cell in front of the agent is always seen
        return "You explore until something new comes into view."

    def _go_to(self, name: str) -> str:
        before = self._moves_left
        self._walk_to(self._seen(name), name)
        if self._moves_left == before:
            self._act(Actions.done)  # moves nothing; the level judges a mission only after a move
        return f"You are at the {name}."

    def _pick_up(self, name: str) -> str:
        thing = self._seen(name)
        if thing is self.level.carrying:
            raise Impossible(f"you carry the {name} already")
        if not thing.can_pickup():
            raise Impossible("a door cannot be carried")
        self._needs_free_hands()
        self._walk_to(thing, name)
        self._lifted_from = paths.front(self.pose)
        self.touched.add(thing)
        self._act(Actions.pickup)
        if self.level.carrying is not thing:
            raise Impossible(f"the {name} does not come loose")
        return f"You pick up the {name}."

    def _put(self, name: str, other: str) -> str:
        thing, fixed = self._seen(name), self._seen(other)
        if thing is not self.level.carrying:
            raise Impossible(f"you do not carry the {name}")
        if thing is fixed:
            raise Impossible("nothing can lie next to itself")

        def beside(cell: Cell) -> bool:
            # Asked again at each move: the object may be seen to stand elsewhere by then.
            place = self.memory.places.get(fixed)
            return place is not None and self.memory.empty(cell) and cell in paths.neighbours(place)

        if not self._approach_free(beside):
            self._needs_place(fixed, other)
            raise Impossible(f"there is no free place next to the {other} that you can reach")
        self._release(name)
        return f"You put the {name} next to the {other}."

    def _drop(self) -> str:
        if self.level.carrying is None:
            raise Impossible("you carry nothing")
        name = self.memory.names[self.level.carrying]

        def elsewhere(cell: Cell) -> bool:
            # What was picked up to make room must not go back to where it stood.
            return self.memory.empty(cell) and cell != self._lifted_from

        if not self._approach_free(elsewhere) and not self._approach(self.memory.empty):
            raise Impossible("there is no free place that you can reach")
        self._release(name)
        return f"You drop the {name}."

    def _open(self, name: str) -> str:
        door = self._door(name)
        if door.is_open:
            raise Impossible(f"the {name} is open already")
        if door.is_locked and not self._has_key(door):
            raise Impossible(f"the {name} is locked, and you do not carry a {door.color} key")
        self._walk_to(door, name)
        self._act(Actions.toggle)
        return f"You open the {name}."

    def _close(self, name: str) -> str:
        door = self._door(name)
        if not door.is_open:
            raise Impossible(f"the {name} is closed already")
        self._walk_to(door, name)
        self._act(Actions.toggle)
        return f"You close the {name}."

    # ---- what the skills are made of

    @property
    def cell(self) -> Cell:
        """The cell on which the agent stands."""
        return int(self.level.agent_pos[0]), int(self.level.agent_pos[1])

    @property
    def pose(self) -> paths.Pose:
        """The cell on which the agent stands, and the direction in which it looks."""
        return (*self.cell, int(self.level.agent_dir))

    def _act(self, action: Actions) -> None:
        if self._moves_left <= 0:
            raise Impossible(f"you stopped after {self.skill_steps} moves without getting there")
        self._moves_left -= 1
        before = self.cell
        _, _, terminated, _, _ = self.level.step(action)
        self.travelled += self.cell != before
        # Only strict levels, which we do not play, end when they are lost. The reward is no sign of success:
        # it falls below zero when a level's own limit of steps is passed.
        self.success = self.success or terminated
        self._discovered = self.memory.update(self.level) or self._discovered
        if self.success:
            raise _Accomplished

    def _approach(self, wanted: Callable[[Cell], bool]) -> bool:
        """Walk until facing a wanted cell, looking for the way anew at each move; False if there is none."""
        while True:
            way = paths.nearest(self.memory, self.pose, wanted)
            if way is None:
                return False
            actions, _ = way
            if not actions:
                return True
            self._act(actions[0])

    def _approach_free(self, wanted: Callable[[Cell], bool]) -> bool:
        """`_approach` to put something down: rather where it is in nobody's way, else anywhere wanted."""

        def harmless(cell: Cell) -> bool:
            return wanted(cell) and paths.out_of_the_way(self.memory, self.cell, cell)

        def passable(cell: Cell) -> bool:
            return wanted(cell) and paths.out_of_the_way(self.memory, self.cell, cell, by_doors=True)

        return any(self._approach(choice) for choice in (harmless, passable, wanted))

    def _walk_to(self, thing: WorldObj, name: str) -> None:
        self._needs_place(thing, name)
        if not self._approach(lambda cell: cell == self.memory.places.get(thing)):
            self._needs_place(thing, name)
            raise Impossible(f"there is no open way to the {name}")

    def _release(self, name: str) -> None:
        self._act(Actions.drop)
        if self.level.carrying is not None:
            raise Impossible(f"there is no room for the {name}")

    def _seen(self, name: str) -> WorldObj:
        thing = self.memory.find(name)
        if thing is None:
            raise Impossible(f"you have seen no {name}")
        return thing

    def _door(self, name: str) -> Door:
        thing = self._seen(name)
        if not isinstance(thing, Door):
            raise Impossible(f"the {name} is not a door")
        return thing

    def _needs_place(self, thing: WorldObj, name: str) -> None:
        if thing is self.level.carrying:
            raise Impossible(f"you carry the {name}")
        if thing not in self.memory.places:
            raise Impossible(f"the {name} is no longer where you saw it")

    def _needs_free_hands(self) -> None:
        if self.level.carrying is not None:
            raise Impossible(f"you carry the {self.memory.names[self.level.carrying]}")

    def _has_key(self, door: Door) -> bool:
        held = self.level.carrying
        return held is not None and held.type == "key" and held.color == door.color

    def _unseen(self, cell: Cell) -> bool:
        level = self.level
        inside = 0 <= cell[0] < level.width and 0 <= cell[1] < level.height
        return inside and cell not in self.memory.cells
