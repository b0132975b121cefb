"""Search order for an object of some kind: fixed, without sight of the room's contents."""

from __future__ import annotations

from collections import Counter
from functools import cache

from erecap.envs.household.data import alfworld_data
from erecap.envs.household.data.rooms import LAMP_KIND, LAMP_SURFACES, load_room, room_numbers


@cache
def search_kinds(thing: str) -> tuple[str, ...]:
    """Kinds of receptacles that can hold a `thing`, in the order in which to search them; all lower-case.

    The generator puts an object into any receptacle of the room that can hold it, so that no receptacle is more
    likely than another. What differs is the price of a look: open surfaces, which cost one command, come before
    furniture with doors, which costs two. Among these the kind that holds the larger share of such objects in the
    training rooms comes first, so that most are found early; then the alphabet decides.

    Args:
        thing: kind of object, such as `apple` or `desklamp`.
    """
    homes = _homes(thing)
    shares = _shares(homes)
    shut = openable_kinds()
    return tuple(sorted(homes, key=lambda home: (home in shut, -shares[home], home)))


@cache
def openable_kinds() -> frozenset[str]:
    """Kinds of receptacles with doors, lower-case."""
    return frozenset(kind.lower() for kind in alfworld_data.constants().OPENABLE_CLASS_SET)


def can_hold(home: str, thing: str) -> bool:
    """Return True if objects of kind `thing` may be put into receptacles of kind `home`; both lower-case."""
    return thing in _contents().get(home, frozenset())


def _homes(thing: str) -> list[str]:
    if thing == LAMP_KIND.lower():
        return [surface.lower() for surface in LAMP_SURFACES]
    return [home for home in _contents() if can_hold(home, thing)]


@cache
def _contents() -> dict[str, frozenset[str]]:
    table = alfworld_data.constants().VAL_RECEPTACLE_OBJECTS
    return {home.lower(): frozenset(thing.lower() for thing in things) for home, things in table.items()}


def _shares(homes: list[str]) -> dict[str, float]:
    """Kind of receptacle -> mean share of it among the receptacles of a training room that are in `homes`."""
    shares: dict[str, float] = dict.fromkeys(homes, 0.0)
    for room in _training_rooms():
        fitting = {home: room[home] for home in homes if room[home]}
        for home, count in fitting.items():
            shares[home] += count / sum(fitting.values())
    return shares


@cache
def _training_rooms() -> tuple[Counter[str], ...]:
    rooms = (load_room(number) for number in room_numbers("train"))
    return tuple(Counter(receptacle.kind.lower() for receptacle in room.receptacles) for room in rooms)
