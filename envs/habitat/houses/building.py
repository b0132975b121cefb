"""Floors, walls and furniture of a house as coloured boxes in the frame of its scene: y is up, the floor is at 0."""

from __future__ import annotations

from erecap.envs.habitat.houses.furnish import SIDES
from erecap.envs.habitat.houses.furniture import FURNITURE
from erecap.envs.habitat.houses.house import House, Room, Thing
from erecap.envs.habitat.houses.layout import WALL, Rect
from erecap.envs.habitat.houses.meshes import Coloured
from erecap.envs.habitat.houses.objects import OBJECTS
from erecap.envs.habitat.houses.rooms import FLOORS
from erecap.envs.habitat.houses.shapes import COLOURS, Colour
from erecap.errors import GameError

CEILING = 2.4  # metres, where walls end; there is no ceiling, so that houses can be seen from above
LINTEL = 2.05  # metres, where doorways end
PLASTER: Colour = (226, 222, 212)
GROUND = 0.1  # metres, thickness of the floor


def stage(house: House) -> list[Coloured]:
    """Floors and walls of a house."""
    half = WALL / 2
    boxes: list[Coloured] = []
    for room in house.rooms:
        x0, z0, x1, z1 = room.box
        floor = FLOORS.get(room.kind, PLASTER)
        boxes.append(((x0 - half, -GROUND, z0 - half), (x1 + half, 0.0, z1 + half), floor))
    pieces, lintels = walls(house)
    boxes += [((x0, -GROUND, z0), (x1, CEILING, z1), PLASTER) for x0, z0, x1, z1 in pieces]
    boxes += [((x0, LINTEL, z0), (x1, CEILING, z1), PLASTER) for x0, z0, x1, z1 in lintels]
    return boxes


def walls(house: House) -> tuple[list[Rect], list[Rect]]:
    """Pieces of wall from above, and what spans the doorways between them; neighbours share the wall between them."""
    found: dict[Rect, None] = {}
    for room in house.rooms:
        found.update(dict.fromkeys(_around(room)))
    pieces: list[Rect] = []
    spans: list[Rect] = []
    for wall in found:
        x0, z0, x1, z1 = wall
        along_x = x1 - x0 > z1 - z0
        middle = [door for door in house.doors if x0 <= door.centre[0] <= x1 and z0 <= door.centre[2] <= z1]
        gaps = sorted(
            (door.centre[0 if along_x else 2] - door.width / 2, door.centre[0 if along_x else 2] + door.width / 2)
            for door in middle
        )
        start, end = (x0, x1) if along_x else (z0, z1)
        for low, high in gaps:
            pieces.append((start, z0, low, z1) if along_x else (x0, start, x1, low))
            spans.append((low, z0, high, z1) if along_x else (x0, low, x1, high))
            start = high
        pieces.append((start, z0, end, z1) if along_x else (x0, start, x1, end))
    return pieces, spans


def boxes_of(thing: Thing, house: House) -> list[Coloured]:
    """The boxes of furniture or an object around its own centre.

    Raises:
        GameError: no such category, colour or room.
    """
    shape = FURNITURE.get(thing.category) or OBJECTS.get(thing.category)
    if shape is None or thing.colour not in COLOURS:
        raise GameError(f"a house has no {thing.colour} {thing.category}; see erecap/envs/habitat/houses")
    side = "north" if thing.movable else facing(thing, house)
    wide, high, deep = shape.size
    made: list[Coloured] = []
    for part in shape.boxes:
        (x0, y0, z0), (x1, y1, z1) = part.low, part.high
        # From the corner to the middle, then turned so that the back is at its wall.
        x0, x1, z0, z1 = x0 - wide / 2, x1 - wide / 2, z0 - deep / 2, z1 - deep / 2
        turned = {
            "north": (x0, z0, x1, z1),
            "south": (-x1, -z1, -x0, -z0),
            "west": (z0, -x1, z1, -x0),
            "east": (-z1, x0, -z0, x1),
        }[side]
        colour = part.colour or COLOURS[thing.colour]
        made.append(((turned[0], y0 - high / 2, turned[1]), (turned[2], y1 - high / 2, turned[3]), colour))
    return made


def facing(thing: Thing, house: House) -> str:
    """The wall that the back of a piece of furniture stands at: the nearest one."""
    room = next((room for room in house.rooms if room.name == thing.room), None)
    if room is None:
        raise GameError(f"{thing.name} stands in {thing.room!r}, which is no room of the house")
    (x, _, z), (wide, _, deep) = thing.centre, thing.size
    x0, z0, x1, z1 = room.box
    gaps = {
        "north": z - deep / 2 - z0,
        "east": x1 - x - wide / 2,
        "south": z1 - z - deep / 2,
        "west": x - wide / 2 - x0,
    }
    return min(SIDES, key=lambda side: gaps[side])


def _around(room: Room) -> list[Rect]:
    """The four walls of a room, from corner to corner; rounded, so that those of neighbours are equal."""
    x0, z0, x1, z1 = room.box
    sides = [
        (x0 - WALL, z0 - WALL, x1 + WALL, z0),
        (x0 - WALL, z1, x1 + WALL, z1 + WALL),
        (x0 - WALL, z0 - WALL, x0, z1 + WALL),
        (x1, z0 - WALL, x1 + WALL, z1 + WALL),
    ]
    return [(round(a, 3), round(b, 3), round(c, 3), round(d, 3)) for a, b, c, d in sides]
