"""The map of a house for reports."""

from __future__ import annotations

from erecap.envs.habitat.houses.house import House
from erecap.envs.habitat.houses.shapes import COLOURS
from erecap.protocols import FloorMap


def floor_map(house: House) -> FloorMap:
    """The house seen from above: x to the right, z downwards."""
    return FloorMap(
        rooms=[{"name": room.name, "outline": _corners(*room.box)} for room in house.rooms],
        doors=[{"ends": _ends(house, number), "open": True} for number in range(len(house.doors))],
        furniture=[
            {"name": thing.name, "outline": _footprint(thing.centre, thing.size), "colour": _hex(thing.colour)}
            for thing in house.things
            if not thing.movable
        ],
        things=[
            {"name": thing.name, "at": (thing.centre[0], thing.centre[2]), "colour": _hex(thing.colour)}
            for thing in house.things
            if thing.movable
        ],
    )


def _ends(house: House, number: int) -> list[tuple[float, float]]:
    door = house.doors[number]
    x, _, z = door.centre
    half = door.width / 2
    # A door is as wide as its wall is long there: the wall runs along z where a room lies on either side in x.
    beside = next(room.box for room in house.rooms if room.name == door.rooms[0])
    along_z = not beside[0] <= x <= beside[2]
    return [(x, z - half), (x, z + half)] if along_z else [(x - half, z), (x + half, z)]


def _footprint(centre: tuple[float, float, float], size: tuple[float, float, float]) -> list[tuple[float, float]]:
    (x, _, z), (wide, _, deep) = centre, size
    return _corners(x - wide / 2, z - deep / 2, x + wide / 2, z + deep / 2)


def _corners(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(round(x, 3), round(y, 3)) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]


def _hex(colour: str) -> str:
    known = COLOURS.get(colour)
    return "" if known is None else "#{:02x}{:02x}{:02x}".format(*known)
