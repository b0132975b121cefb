"""The true state of a household world, read from the engine's facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Holder:
    """A receptacle as it is now."""

    id: str
    name: str  # as the observations have it, such as "cabinet 3"
    kind: str  # lower-case, such as "cabinet"
    location: str  # PDDL name of the place from which it is reached
    openable: bool
    opened: bool


@dataclass(frozen=True)
class Thing:
    """An object as it is now."""

    id: str
    name: str
    kind: str
    inside: str | None  # id of the receptacle that it is in or on; None in the hand or inside another object
    traits: frozenset[str]  # such as "pickupable", "toggleable", "isclean", "ishot", "iscool", "istoggled"


@dataclass(frozen=True)
class World:
    """All that goals and plans depend on."""

    place: str  # PDDL name of the agent's location
    held: str | None  # id of the object in the hand
    holders: dict[str, Holder]  # by id, in order of name
    things: dict[str, Thing]  # by id, in order of name
    contains: frozenset[tuple[str, str]]  # (kind of receptacle, kind of object) that go together

    def can_hold(self, holder: Holder, thing: Thing) -> bool:
        """Return True if `thing` may be put into `holder`."""
        return (holder.kind, thing.kind) in self.contains

    def holders_here(self) -> list[Holder]:
        """Receptacles within reach."""
        return [holder for holder in self.holders.values() if holder.location == self.place]

    def things_of(self, kind: str) -> list[Thing]:
        """Objects of a kind."""
        return [thing for thing in self.things.values() if thing.kind == kind]

    def holders_of(self, kind: str) -> list[Holder]:
        """Receptacles of a kind."""
        return [holder for holder in self.holders.values() if holder.kind == kind]


def read_world(facts: Iterable[Any], names: Mapping[str, str]) -> World:
    """Build the world from textworld propositions; `names` maps ids to the names in observations.

    Raises:
        KeyError: a fact that every game has (the agent's place, the kind or place of something) is missing.
    """
    table: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for fact in facts:
        table[fact.name].append(tuple(argument.name for argument in fact.arguments))
    traits: dict[str, set[str]] = defaultdict(set)
    for predicate, rows in table.items():
        for row in rows:
            if len(row) == 1:
                traits[row[0]].add(predicate)
    kinds = {row[0]: row[1].removesuffix("type") for row in table["objecttype"] + table["receptacletype"]}
    locations = {row[0]: row[1] for row in table["receptacleatlocation"]}
    inside = {row[0]: row[1] for row in table["inreceptacle"]}
    holders = [
        Holder(name, names[name], kinds[name], locations[name], "openable" in traits[name], "opened" in traits[name])
        for name, _ in table["receptacletype"]
        if name in locations
    ]
    things = [
        Thing(name, names[name], kinds[name], inside.get(name), frozenset(traits[name]))
        for name, _ in table["objecttype"]
    ]
    if not table["atlocation"]:
        raise KeyError("atlocation")
    held = [thing for _, thing in table["holds"]]
    return World(
        place=table["atlocation"][0][1],
        held=held[0] if held else None,
        holders={holder.id: holder for holder in sorted(holders, key=lambda holder: number_key(holder.name))},
        things={thing.id: thing for thing in sorted(things, key=lambda thing: number_key(thing.name))},
        contains=frozenset((a.removesuffix("type"), b.removesuffix("type")) for a, b in table["cancontain"]),
    )


def number_key(name: str) -> tuple[str, int]:
    """Sort key that puts `shelf 2` before `shelf 10`."""
    kind, _, number = name.rpartition(" ")
    return (kind, int(number)) if number.isdigit() else (name, 0)
