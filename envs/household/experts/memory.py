"""An agent's knowledge of a home, from the text of an episode alone: the agent's location and observed objects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from erecap.envs.household.commands import names_in

# One pattern an action; the names are the engine's own, so they hold for downloaded games too.
_ROOM = re.compile(r"^You are in the middle of a room\..*?you see (.+?)\.(?:\s|$)", re.DOTALL)
_ARRIVED = re.compile(r"You arrive at ([a-z]+ \d+)\.")
_FACING = re.compile(r"You are facing the ([a-z]+ \d+)")
_LISTED = re.compile(r"(?:On the ([a-z]+ \d+)|The ([a-z]+ \d+) is open\. In it), you see ([^.]*)\.")
_SHUT = re.compile(r"The ([a-z]+ \d+) is closed\.|You close the ([a-z]+ \d+)\.")
_TAKEN = re.compile(r"You pick up the ([a-z]+ \d+) from the ([a-z]+ \d+)\.")
_PUT = re.compile(r"You move the ([a-z]+ \d+) to the ([a-z]+ \d+)\.")
_TREATED = re.compile(r"You (clean|heat|cool) the ([a-z]+ \d+) using the")
_LIT = re.compile(r"You turn on the ([a-z]+ \d+)\.")
_CARRYING = re.compile(r"You are carrying: (.+?)\.|You are not carrying anything\.")
# What a treatment gives an object, and what it takes away.
_GIVES = {"clean": ("clean", ""), "heat": ("hot", "cool"), "cool": ("cool", "hot")}


@dataclass
class Memory:
    """Facts of one episode, newest sight first to count. It does not matter whose commands led to them."""

    receptacles: tuple[str, ...] = ()  # of the room, in the order in which they were told
    place: str = ""  # receptacle that the agent stands before; "" at the start
    held: str = ""  # object in the hand; "" for none
    where: dict[str, str] = field(default_factory=dict)  # object -> receptacle; the latest sight stands last
    looked_into: set[str] = field(default_factory=set)  # receptacles whose content was shown
    opened: set[str] = field(default_factory=set)  # receptacles with doors that stand open
    traits: dict[str, set[str]] = field(default_factory=dict)  # object -> "clean", "hot", "cool"
    lit: set[str] = field(default_factory=set)  # lamps that were switched on

    @classmethod
    def of(cls, observations: Iterable[str]) -> Memory:
        """The memory that a sequence of observations leaves."""
        memory = cls()
        for text in observations:
            memory.read(text)
        return memory

    def copy(self) -> Memory:
        """A memory to imagine in."""
        return deepcopy(self)

    def read(self, text: str) -> None:
        """Take in one observation. A command that did nothing teaches nothing."""
        if room := _ROOM.search(text):
            self.receptacles = self.receptacles or tuple(re.findall(r"[a-z]+ \d+", room.group(1)))
        if arrived := _ARRIVED.search(text) or _FACING.search(text):
            self.place = arrived.group(1)
        for taken in _TAKEN.finditer(text):
            self.take(taken.group(1))
        for put in _PUT.finditer(text):
            self.put(put.group(1), put.group(2))
        for treated in _TREATED.finditer(text):
            self.treat(treated.group(2), treated.group(1))
        for lamp in _LIT.finditer(text):
            self.lit.add(lamp.group(1))
        if carrying := _CARRYING.search(text):
            self.held = next(iter(names_in(carrying.group(1) or "")), "")
            self.where.pop(self.held, None)
        for shut in _SHUT.finditer(text):
            self.opened.discard(shut.group(1) or shut.group(2))
        for listed in _LISTED.finditer(text):
            self.look_into(listed.group(1) or listed.group(2), re.findall(r"[a-z]+ \d+", listed.group(3)))
            if listed.group(2):
                self.opened.add(listed.group(2))

    def look_into(self, receptacle: str, things: Iterable[str]) -> None:
        """All that is in `receptacle` was shown."""
        self.looked_into.add(receptacle)
        for thing in [thing for thing, place in self.where.items() if place == receptacle]:
            del self.where[thing]
        for thing in things:
            self.where.pop(thing, None)
            self.where[thing] = receptacle

    def take(self, thing: str) -> None:
        """`thing` is in the hand now."""
        self.held = thing
        self.where.pop(thing, None)

    def put(self, thing: str, receptacle: str) -> None:
        """`thing` lies in `receptacle` now. That says nothing of what else is in there."""
        self.held = ""
        self.where.pop(thing, None)
        self.where[thing] = receptacle

    def treat(self, thing: str, how: str) -> None:
        """`thing` was cleaned, heated or cooled: `how` is `clean`, `heat` or `cool`."""
        gained, lost = _GIVES[how]
        self.traits.setdefault(thing, set()).add(gained)
        self.traits[thing].discard(lost)

    def things_of(self, kind: str) -> list[str]:
        """Objects of a kind whose place is known, the latest sight first."""
        return [thing for thing in reversed(self.where) if kind_of(thing) == kind]

    def receptacles_of(self, kind: str) -> list[str]:
        """Receptacles of a kind in the room, lower numbers first."""
        return sorted((name for name in self.receptacles if kind_of(name) == kind), key=number_of)


def kind_of(name: str) -> str:
    """`cabinet 3` -> `cabinet`."""
    return name.rpartition(" ")[0]


def number_of(name: str) -> int:
    """`cabinet 3` -> 3."""
    return int(name.rpartition(" ")[2])
