"""The expert: from the true state, the shortest walk that fulfils the task, as commands.

It knows where everything is, so it is an upper bound for agents that must look for things. Any state will do: it puts
down what it does not need, opens what is closed, and uses what is done already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

from erecap.envs.household.data.gamefile import Task
from erecap.envs.household.data.placement import LOOK, PICK_TWO
from erecap.envs.household.engine.world import Holder, Thing, World, number_key
from erecap.envs.household.experts.progress import TREATED, conditions
from erecap.envs.household.experts.travel import FloorPlan

# Task type -> (receptacle that treats the object, the engine's action).
_TOOLS = {
    "pick_clean_then_place_in_recep": ("sinkbasin", "cleanobject"),
    "pick_heat_then_place_in_recep": ("microwave", "heatobject"),
    "pick_cool_then_place_in_recep": ("fridge", "coolobject"),
}


@dataclass(frozen=True)
class Way:
    """A sequence of commands and what it costs."""

    commands: tuple[str, ...]
    metres: float

    def cost(self) -> tuple[float, int, tuple[str, ...]]:
        """Shorter walks first, then fewer commands, then the order of the alphabet, so that ties are settled."""
        return round(self.metres, 6), len(self.commands), self.commands


@dataclass
class _Draft:
    """A way that is being put together, with the state that it leads to."""

    world: World
    plan: FloorPlan
    verbs: Mapping[str, str]
    place: str
    held: str | None
    opened: frozenset[str]
    metres: float = 0.0
    commands: list[str] = field(default_factory=list)

    def copy(self) -> _Draft:
        return replace(self, commands=list(self.commands))

    def say(self, action: str, holder: Holder | None = None, thing: Thing | None = None) -> None:
        names = {"r": holder.name if holder else "", "o": thing.name if thing else ""}
        self.commands.append(self.verbs[action].format(**names))

    def go(self, holder: Holder, *, reach_inside: bool = False) -> None:
        if self.place != holder.location:
            self.metres += self.plan.between(self.place, holder.location)
            self.place = holder.location
            self.say("gotolocation", holder)
        if reach_inside and holder.openable and holder.id not in self.opened:
            self.say("openobject", holder)
            self.opened |= {holder.id}

    def take(self, thing: Thing) -> None:
        assert thing.inside is not None
        holder = self.world.holders[thing.inside]
        self.go(holder, reach_inside=True)
        self.say("pickupobject", holder, thing)
        self.held = thing.id

    def put(self, thing: Thing, holder: Holder) -> None:
        self.go(holder, reach_inside=True)
        self.say("putobject", holder, thing)
        self.held = None

    def put_away(self) -> bool:
        """Put down what is in the hand at the nearest receptacle that takes it; False if there is none."""
        assert self.held is not None
        thing = self.world.things[self.held]
        fitting = [holder for holder in self.world.holders.values() if self.world.can_hold(holder, thing)]
        if not fitting:
            return False

        def effort(holder: Holder) -> tuple[float, bool, tuple[str, int]]:
            shut = holder.openable and holder.id not in self.opened
            return self.plan.between(self.place, holder.location), shut, number_key(holder.name)

        self.put(thing, min(fitting, key=effort))
        return True

    def fetch(self, thing: Thing) -> bool:
        """Get `thing` into the hand; False if that cannot be done."""
        if self.held == thing.id:
            return True
        if thing.inside is None or thing.inside not in self.world.holders or "pickupable" not in thing.traits:
            return False
        if self.held is not None and not self.put_away():
            return False
        self.take(thing)
        return True


def best_way(world: World, task: Task, plan: FloorPlan, verbs: Mapping[str, str]) -> Way | None:
    """The way with the shortest walk from `world` to success; None if there is none.

    Args:
        world: the true state.
        task: what to achieve.
        plan: distances in metres.
        verbs: the engine's command templates by action (`Engine.verbs`).
    """
    met, total = conditions(world, task)
    if met == total:
        return Way((), 0.0)
    opened = frozenset(holder.id for holder in world.holders.values() if holder.opened)
    start = _Draft(world, plan, verbs, world.place, world.held, opened)
    kind = {LOOK: _look_ways, PICK_TWO: _two_ways}.get(task.type, _place_ways)
    ways = [Way(tuple(draft.commands), draft.metres) for draft in kind(start, task)]
    return min(ways, key=Way.cost, default=None)


def _place_ways(start: _Draft, task: Task) -> Iterator[_Draft]:
    world = start.world
    tool, action = _TOOLS.get(task.type, ("", ""))
    trait = TREATED.get(task.type, "")
    for thing in world.things_of(task.target):
        fetched = start.copy()
        if not fetched.fetch(thing):
            continue
        treated = [fetched]
        if tool and trait not in thing.traits:
            treated = []
            for holder in world.holders_of(tool):
                draft = fetched.copy()
                draft.go(holder)
                draft.say(action, holder, thing)
                treated.append(draft)
        for before in treated:
            for holder in world.holders_of(task.parent):
                if world.can_hold(holder, thing):
                    draft = before.copy()
                    draft.put(thing, holder)
                    yield draft


def _two_ways(start: _Draft, task: Task) -> Iterator[_Draft]:
    world = start.world
    things = world.things_of(task.target)
    for holder in world.holders_of(task.parent):
        elsewhere = [t for t in things if t.inside != holder.id and world.can_hold(holder, t)]
        missing = 2 - (len(things) - len([t for t in things if t.inside != holder.id]))
        for chosen in permutations(elsewhere, missing):
            draft = start.copy()
            if all(_bring(draft, thing, holder) for thing in chosen):
                yield draft


def _bring(draft: _Draft, thing: Thing, holder: Holder) -> bool:
    if not draft.fetch(thing):
        return False
    draft.put(thing, holder)
    return True


def _look_ways(start: _Draft, task: Task) -> Iterator[_Draft]:
    world = start.world
    for thing in world.things_of(task.target):
        fetched = start.copy()
        if not fetched.fetch(thing):
            continue
        for lamp in world.things_of(task.toggle):
            if lamp.inside in world.holders:
                draft = fetched.copy()
                draft.go(world.holders[lamp.inside])
                if "istoggled" not in lamp.traits:
                    draft.say("toggleobject", None, lamp)
                yield draft
