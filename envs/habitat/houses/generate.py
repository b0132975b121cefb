"""Draws a house from a seed: floor plan, furniture, objects. Nothing is written, and no simulator is needed."""

from __future__ import annotations

import random
from dataclasses import replace

from erecap.envs.floor_plans import draw_layout
from erecap.envs.habitat.houses.furnish import furnish, lay_objects, things_of
from erecap.envs.habitat.houses.house import House
from erecap.envs.habitat.houses.layout import draw_shell
from erecap.errors import GameError

RECEPTACLES = 6  # least pieces of furniture that objects can lie on
_MAX_DRAWS = 50


def generate_house(seed: str, *, split: str, rooms: tuple[int, int] = (3, 6), objects: int = 12) -> House:
    """Draw a house; equal arguments give equal houses.

    All rooms are joined by doorways, and all furniture can be reached. No floor plan is in both splits.

    Args:
        seed: any text.
        split: `train` or `unseen`.
        rooms: fewest and most rooms, 2 to 9.
        objects: movable objects, each on a piece of furniture.

    Raises:
        GameError: no such house was found: too many objects for so few rooms, or no floor plan of the split.
    """
    rng = random.Random(f"habitat house/{split}/{seed}/{rooms[0]}-{rooms[1]}/{objects}")
    for _ in range(_MAX_DRAWS):
        house = _draw(seed, split, rng.randint(*rooms), objects, rng)
        if house is not None:
            return house
    raise GameError(
        f"no house with {rooms[0]} to {rooms[1]} rooms, {RECEPTACLES} places and {objects} objects "
        f"in {_MAX_DRAWS} draws; set more rooms or fewer objects"
    )


def _draw(seed: str, split: str, rooms: int, objects: int, rng: random.Random) -> House | None:
    shell = draw_shell(draw_layout(split, rooms, rng), rng)
    taken: set[tuple[str, str]] = set()
    furniture = []
    for room in shell.rooms:
        placed = furnish(room, shell.doors, rng)
        furniture += list(zip(placed, things_of(room, placed, taken, rng), strict=True))
    things = [thing for _, thing in furniture]
    holding = [thing for thing in things if thing.receptacle]
    if len(holding) < RECEPTACLES or {thing.room for thing in holding} != {room.name for room in shell.rooms}:
        return None
    # A colour means something only where a category has several.
    if len({thing.category for thing in things}) == len(things):
        return None
    laid = lay_objects(furniture, objects, taken, rng)
    if len(laid) < objects:
        return None
    numbered = tuple(replace(thing, semantic_id=number) for number, thing in enumerate([*things, *laid], start=1))
    return House(seed=seed, split=split, rooms=shell.rooms, doors=shell.doors, things=numbered)
