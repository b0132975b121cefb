"""An expert that plays with the same skills as the planner and knows only what the agent has seen.

It reads the mission's instruction tree. Its next command depends on the present state alone, so it can go on from
wherever a planner left the episode. It replaces the bot of the BabyAI paper (arXiv:1810.08272): that bot's plan is a
stack of low-level sub-goals, which a change of the world from outside makes invalid.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import networkx as nx
from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    AndInstr,
    BeforeInstr,
    GoToInstr,
    Instr,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

from erecap.envs.babyai import paths
from erecap.envs.babyai.memory import Cell
from erecap.envs.babyai.skills import Body

# What an obstacle costs in steps when the expert looks for the way to take: about what removing it takes.
_CLOSED_DOOR, _LOCKED_DOOR, _OBJECT = 3, 30, 15


def play(body: Body, limit: int) -> tuple[list[str], Body]:
    """The expert's commands from here to the end of the mission, at most `limit`, played on a copy.

    Returns: the commands, and the copy after the last of them (`success`, `travelled`).
    """
    copied = copy.deepcopy(body)
    commands: list[str] = []
    states = set()
    while not copied.success and len(commands) < limit:
        command = next_command(copied)
        held = copied.level.carrying
        places = frozenset(copied.memory.places.items())
        state = (command, copied.pose, held, len(copied.memory.cells), places)
        # Commands depend on the state alone, so a state that comes back would come back for ever.
        if command is None or state in states:
            break
        states.add(state)
        commands.append(command)
        copied.perform(command)
    return commands, copied


def lookahead(body: Body, limit: int) -> list[str]:
    """The expert's next commands as a planner could have written them: only names that were seen by now."""
    known = set(body.skills())
    names = set(body.memory.names.values())
    commands, copied = play(body, limit)
    fresh = {name for name in copied.memory.names.values() if name not in names}
    plan: list[str] = []
    for command in commands:
        if command not in known and any(_mentions(command, name) for name in fresh):
            break
        plan.append(command)
    return plan


def next_command(body: Body) -> str | None:
    """The expert's next command, always admissible; None where it knows no way on."""
    return _Expert(body).next(_current(body.level.instrs))


def progress(instr: Instr, done: bool = False) -> tuple[int, int]:
    """Clauses of the mission that are accomplished, and all clauses."""
    if not isinstance(instr, (BeforeInstr, AfterInstr, AndInstr)):
        return int(done), 1
    a = progress(instr.instr_a, done or instr.a_done == "success")
    b = progress(instr.instr_b, done or instr.b_done == "success")
    return a[0] + b[0], a[1] + b[1]


def _current(instr: Instr) -> Instr:
    """The clause that is to be accomplished next."""
    while isinstance(instr, (BeforeInstr, AfterInstr, AndInstr)):
        if isinstance(instr, AfterInstr):
            instr = instr.instr_a if instr.b_done == "success" else instr.instr_b
        else:
            instr = instr.instr_b if instr.a_done == "success" else instr.instr_a
    return instr


def _mentions(command: str, name: str) -> bool:
    return f" {name} " in f" {command} "


class _Expert:
    """One decision. Commands that it returns are admissible now."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.memory = body.memory
        self.held = body.level.carrying
        self.reach = body.reach()
        self.bare = body.bare()

    def next(self, instr: Instr) -> str | None:
        if isinstance(instr, GoToInstr):
            return self._go_to(instr.desc.obj_set)
        if isinstance(instr, PickupInstr):
            return "drop" if self._holds(instr.desc.obj_set) else self._take(instr.desc.obj_set)
        if isinstance(instr, OpenInstr):
            return self._open(instr.desc.obj_set)
        if isinstance(instr, PutNextInstr):
            return self._put_next(instr.desc_move.obj_set, instr.desc_fixed.obj_set)
        raise TypeError(f"unknown instruction {type(instr).__name__}")

    # ---- one method per kind of instruction

    def _go_to(self, wanted: list[WorldObj]) -> str | None:
        if self._holds(wanted):
            return "drop"
        near = self._nearest(wanted)
        return f"go to {self._name(near)}" if near else self._way_to(wanted)

    def _take(self, wanted: list[WorldObj]) -> str | None:
        near = self._nearest(wanted)
        if near is None:
            return self._way_to(wanted)
        return "drop" if self.held is not None else f"pick up {self._name(near)}"

    def _open(self, doors: list[Door]) -> str | None:
        ready = [door for door in doors if not door.is_open and (not door.is_locked or self._fits(door))]
        near = self._nearest(ready)
        if near:
            return f"open {self._name(near)}"
        # A door counts as opened when it is opened now, so an open one is closed first.
        near = self._nearest([door for door in doors if door.is_open])
        if near:
            name = self._name(near)
            return f"go to {name}" if self.memory.places[near] == self.body.cell else f"close {name}"
        return self._way_to(doors)

    def _put_next(self, moved: list[WorldObj], fixed: list[WorldObj]) -> str | None:
        goals = [thing for thing in fixed if self._has_room(thing)]
        if not goals:
            # Holding the goal itself, which stood in its own way, or having to make room beside it.
            return "drop" if self._holds(fixed) and not self._holds(moved) else self._way_beside(fixed)
        if self._holds(moved):
            near = min(goals, key=lambda thing: self._moves_to_side_of(thing))
            return f"put {self._name(self.held)} next to {self._name(near)}"
        # The way to the goal was cleared before the object is taken: both need the same pair of hands.
        return self._take([thing for thing in moved if any(other is not thing for other in goals)])

    # ---- getting to things

    def _way_to(self, wanted: Iterable[WorldObj]) -> str | None:
        """The command that brings the agent nearer to one of the wanted objects, none of which is at hand."""
        seen = {self.memory.places[thing] for thing in wanted if thing in self.memory.places}
        return (self._clear(seen) if seen else None) or self._search()

    def _way_beside(self, wanted: Iterable[WorldObj]) -> str | None:
        """As `_way_to`, to a bare cell beside one of the wanted objects."""
        sides = {
            cell
            for thing in wanted
            if thing in self.memory.places
            for cell in paths.neighbours(self.memory.places[thing])
            if self.memory.empty(cell)
        }
        way = self._clear(sides) if sides else None
        return way or self._make_room(wanted) or self._search()

    def _make_room(self, wanted: Iterable[WorldObj]) -> str | None:
        """Take away something that stands beside one of the wanted objects."""
        seen = {self.memory.places[thing] for thing in wanted if thing in self.memory.places}
        beside = {cell for place in seen for cell in paths.neighbours(place)}
        return self._clear(
            {
                place
                for thing, place in self.memory.places.items()
                if place in beside and place not in seen and thing.can_pickup()
            },
            ends_too=True,
        )

    def _search(self) -> str | None:
        if any(self.body._unseen(cell) for cell in self.reach):
            return "explore"
        closed = {place for thing, place in self.memory.places.items() if isinstance(thing, Door) and not thing.is_open}
        return self._clear(closed | self._frontier(), ends_too=True)

    def _frontier(self) -> set[Cell]:
        """Unseen cells beside seen ones that are no walls."""
        return {
            beside
            for cell, content in self.memory.cells.items()
            if content is None or content.type != "wall"
            for beside in paths.neighbours(cell)
            if self.body._unseen(beside)
        }

    def _clear(
        self, goals: set[Cell], *, ends_too: bool = False, fetching: frozenset[WorldObj] = frozenset()
    ) -> str | None:
        """The command for the first obstacle on the cheapest way to one of the goals; None: there is no way.

        Args:
            goals: cells to be faced.
            ends_too: what stands on a goal is an obstacle as well, to be opened or taken away.
            fetching: locked doors whose key is on its way, not to be counted on.
        """
        graph = nx.DiGraph()
        graph.add_node(self.body.cell)
        for cell in self.memory.cells:
            if cell != self.body.cell and self._cost(cell, fetching) is None:
                continue
            for beside in paths.neighbours(cell):
                is_end = beside in goals and (not ends_too or beside not in self.memory.cells)
                cost = 1 if is_end else self._cost(beside, fetching)
                if cost is not None:
                    graph.add_edge(cell, beside, weight=cost)
        lengths, ways = nx.single_source_dijkstra(graph, self.body.cell)
        ends = [goal for goal in goals if goal in lengths]
        if not ends:
            return None
        way = ways[min(ends, key=lambda goal: (lengths[goal], goal))]
        for cell in way[1:]:
            content = self.memory.cells.get(cell)
            if content is None or content.can_overlap() or (cell in goals and not ends_too):
                continue
            return self._remove(content, fetching)
        return None

    def _remove(self, obstacle: WorldObj, fetching: frozenset[WorldObj]) -> str | None:
        name = self._name(obstacle)
        if not isinstance(obstacle, Door):
            return "drop" if self.held is not None else f"pick up {name}"
        if not obstacle.is_locked or self._fits(obstacle):
            return f"open {name}"
        keys = self._keys(obstacle)
        if self._nearest(keys):
            return self._take(keys)
        return self._clear({self.memory.places[key] for key in keys}, fetching=fetching | {obstacle})

    def _cost(self, cell: Cell, fetching: frozenset[WorldObj]) -> int | None:
        """Steps that entering the cell costs, what stands there removed; None if it cannot be."""
        content = self.memory.cells.get(cell)
        if content is None or content.can_overlap():
            return 1 if cell in self.memory.cells else None
        if content.type == "wall" or content in fetching:
            return None
        if not isinstance(content, Door):
            return _OBJECT
        if not content.is_locked:
            return _CLOSED_DOOR
        return _LOCKED_DOOR if self._fits(content) or self._keys(content) else None

    # ---- what is known

    def _nearest(self, wanted: Iterable[WorldObj]) -> WorldObj | None:
        """The wanted object that takes the fewest moves to face, of those with an open way."""
        places = {self.memory.places[t]: t for t in wanted if self.memory.places.get(t) in self.reach}
        if not places:
            return None
        found = paths.nearest(self.memory, self.body.pose, places.__contains__)
        return places[found[1]] if found else None

    def _holds(self, wanted: list[WorldObj]) -> bool:
        return any(thing is self.held for thing in wanted)

    def _fits(self, door: Door) -> bool:
        return self.held is not None and self.held.type == "key" and self.held.color == door.color

    def _keys(self, door: Door) -> list[WorldObj]:
        return [t for t in self.memory.places if t.type == "key" and t.color == door.color]

    def _sides(self, thing: WorldObj) -> list[Cell]:
        """Bare cells beside the thing that the agent can face."""
        if thing not in self.memory.places:
            return []
        return [cell for cell in paths.neighbours(self.memory.places[thing]) if cell in self.bare]

    def _has_room(self, thing: WorldObj) -> bool:
        return bool(self._sides(thing))

    def _moves_to_side_of(self, thing: WorldObj) -> float:
        found = paths.nearest(self.memory, self.body.pose, self._sides(thing).__contains__)
        return len(found[0]) if found else math.inf

    def _name(self, thing: WorldObj | None) -> str:
        assert thing is not None
        return self.memory.names[thing]
