"""Puts furniture along the walls of a room and objects on it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from erecap.envs.habitat.houses.furniture import FURNITURE
from erecap.envs.habitat.houses.house import Door, Room, Thing
from erecap.envs.habitat.houses.layout import Rect, doorways
from erecap.envs.habitat.houses.objects import OBJECTS
from erecap.envs.habitat.houses.passage import CLEARANCE, connected
from erecap.envs.habitat.houses.rooms import ROOMS
from erecap.envs.habitat.houses.shapes import COLOURS, Shape

BACK = 0.02  # metres between a back and its wall: less than anything keeps to other walls, so that it tells the facing
BESIDE = 0.1  # least distance to side walls and other furniture, in metres
BEFORE = CLEARANCE + 0.1  # metres before a front where somebody has to be able to stand
SLOT = 0.3  # metres of a surface that one object takes
MOST_ON_ONE = 4  # objects on one piece of furniture
EDGE = 0.04  # metres between an object and the front edge of what it lies on
LIFT = 0.002  # metres between an object and its surface, so that they never touch
_TRIES = 40

SIDES = ("north", "east", "south", "west")  # the wall that a back stands at; north is the lowest z, west the lowest x


@dataclass(frozen=True)
class Placed:
    """One piece of furniture in its room."""

    category: str
    side: str  # of `SIDES`
    rect: Rect

    @property
    def front(self) -> tuple[float, float]:
        """A point before the middle of its front, where somebody can stand."""
        x, z = (self.rect[0] + self.rect[2]) / 2, (self.rect[1] + self.rect[3]) / 2
        return {
            "north": (x, self.rect[3] + BEFORE),
            "south": (x, self.rect[1] - BEFORE),
            "west": (self.rect[2] + BEFORE, z),
            "east": (self.rect[0] - BEFORE, z),
        }[self.side]


def furnish(room: Room, doors: tuple[Door, ...], rng: random.Random) -> list[Placed]:
    """Draw furniture for a room; every front can be reached from every door, by passages twice `CLEARANCE` wide."""
    doors_free = doorways(room, doors)
    x0, z0, x1, z1 = room.box
    categories = rng.sample(ROOMS[room.kind], len(ROOMS[room.kind]))
    # What objects can lie on comes first, so that it finds a place.
    categories.sort(key=lambda category: FURNITURE[category].surface is None)
    wanted = 3 + int((x1 - x0) * (z1 - z0) / 8)
    placed: list[Placed] = []
    for category in [*categories[:2], *rng.sample(categories[2:], len(categories) - 2)]:
        if len(placed) == wanted:
            break
        for _ in range(_TRIES):
            one = _draw(category, room.box, rng)
            if one is not None and _fits(one, placed, doors_free, room.box):
                placed.append(one)
                break
    return placed


def things_of(room: Room, placed: Sequence[Placed], taken: set[tuple[str, str]], rng: random.Random) -> list[Thing]:
    """The furniture of a room as things, each with a colour that no other thing of its category has.

    Args:
        taken: (category, colour) of what the house holds already; added to.
    """
    things = []
    for one in placed:
        shape = FURNITURE[one.category]
        colour = _colour(one.category, taken, rng)
        x0, z0, x1, z1 = one.rect
        things.append(
            _thing(
                one.category,
                colour,
                centre=((x0 + x1) / 2, shape.size[1] / 2, (z0 + z1) / 2),
                size=(x1 - x0, shape.size[1], z1 - z0),
                room=room.name,
                receptacle=shape.surface is not None,
            )
        )
    return things


def lay_objects(
    furniture: Sequence[tuple[Placed, Thing]], count: int, taken: set[tuple[str, str]], rng: random.Random
) -> list[Thing]:
    """Draw objects and lay them on furniture; fewer than `count` where there are too few places."""
    places = [place for placed, thing in furniture for place in _places(placed, thing)]
    rng.shuffle(places)
    # One object a piece before any has two, so that every room is worth a visit.
    depth: dict[str, int] = {}
    ranked = []
    for place in places:
        depth[place[0].id] = depth.get(place[0].id, 0) + 1
        ranked.append((depth[place[0].id], place))
    ranked.sort(key=lambda entry: entry[0])
    # Fewer categories than objects, so that a category alone often names several.
    categories = rng.sample(sorted(OBJECTS), min(len(OBJECTS), max(2, (count + 1) // 2)))
    objects = []
    for number, (_, (under, placed, (x, z))) in enumerate(ranked[:count]):
        category = categories[number % len(categories)]
        shape, surface = OBJECTS[category], FURNITURE[under.category].surface
        assert surface is not None, "only furniture with a surface has places"
        wide, high, deep = shape.size
        depth_here = deep if placed.side in ("north", "south") else wide
        inward = depth_here / 2 + EDGE  # from the front edge
        x, z = {
            "north": (x, placed.rect[3] - inward),
            "south": (x, placed.rect[1] + inward),
            "west": (placed.rect[2] - inward, z),
            "east": (placed.rect[0] + inward, z),
        }[placed.side]
        thing = _thing(
            category,
            _colour(category, taken, rng),
            centre=(x, surface + LIFT + high / 2, z),
            size=(wide, high, deep),
            room=under.room,
            receptacle=False,
        )
        objects.append(replace(thing, movable=True, on=under.id))
    return objects


def _places(placed: Placed, thing: Thing) -> list[tuple[Thing, Placed, tuple[float, float]]]:
    """Places for objects side by side along a surface; of the point, only the coordinate along the front counts."""
    shape = FURNITURE[placed.category]
    if shape.surface is None:
        return []
    usable = shape.size[0] - 2 * shape.sides
    count = min(MOST_ON_ONE, max(1, int(usable / SLOT)))
    x, _, z = thing.centre
    offsets = [usable * ((n + 0.5) / count - 0.5) for n in range(count)]
    along_x = placed.side in ("north", "south")
    return [(thing, placed, (x + offset, z) if along_x else (x, z + offset)) for offset in offsets]


def _draw(category: str, room: Rect, rng: random.Random) -> Placed | None:
    shape: Shape = FURNITURE[category]
    wide, _, deep = shape.size
    x0, z0, x1, z1 = room
    side = rng.choice(SIDES)
    low, high = (x0, x1) if side in ("north", "south") else (z0, z1)
    if high - low < wide + 2 * BESIDE:
        return None
    start = round(rng.uniform(low + BESIDE, high - BESIDE - wide), 2)
    rect = {
        "north": (start, z0 + BACK, start + wide, z0 + BACK + deep),
        "south": (start, z1 - BACK - deep, start + wide, z1 - BACK),
        "west": (x0 + BACK, start, x0 + BACK + deep, start + wide),
        "east": (x1 - BACK - deep, start, x1 - BACK, start + wide),
    }[side]
    return Placed(category, side, rect)


def _fits(one: Placed, placed: Sequence[Placed], doors: Sequence[tuple[Rect, tuple[float, float]]], room: Rect) -> bool:
    if any(_meet(one.rect, free) for free, _ in doors):
        return False
    if any(_meet(_grown(one.rect, BESIDE), other.rect) for other in placed):
        return False
    everything = [*placed, one]
    points = [point for _, point in doors] + [other.front for other in everything]
    return connected(room, [other.rect for other in everything], points)


def _meet(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _grown(rect: Rect, by: float) -> Rect:
    return rect[0] - by, rect[1] - by, rect[2] + by, rect[3] + by


def _colour(category: str, taken: set[tuple[str, str]], rng: random.Random) -> str:
    colour = rng.choice([colour for colour in COLOURS if (category, colour) not in taken])
    taken.add((category, colour))
    return colour


def _thing(
    category: str,
    colour: str,
    *,
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    room: str,
    receptacle: bool,
) -> Thing:
    name = f"{colour} {category}"
    return Thing(
        id=name.replace(" ", "_"),
        name=name,
        category=category,
        colour=colour,
        centre=(round(centre[0], 3), round(centre[1], 4), round(centre[2], 3)),
        size=(round(size[0], 3), round(size[1], 3), round(size[2], 3)),
        room=room,
        receptacle=receptacle,
        movable=False,
        on="",
        semantic_id=0,  # numbered when the house is whole
    )
