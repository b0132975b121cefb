"""Houses that several tests read, and the floor of one as a grid that shares no code with the generator."""

from __future__ import annotations

from functools import cache

from erecap.envs.habitat.houses.building import walls
from erecap.envs.habitat.houses.generate import generate_house
from erecap.envs.habitat.houses.house import House, Thing

COUNT = 50
CELL = 0.05  # metres
AGENT = 0.2  # metres, the radius that navigation meshes are made for
Cell = tuple[int, int]


@cache
def houses() -> tuple[House, ...]:
    """Fifty houses, half of them of each split."""
    return tuple(generate_house(f"house {number}", split=("train", "unseen")[number % 2]) for number in range(COUNT))


def furniture(house: House) -> list[Thing]:
    return [thing for thing in house.things if not thing.movable]


def footprint(thing: Thing) -> tuple[float, float, float, float]:
    (x, _, z), (wide, _, deep) = thing.centre, thing.size
    return x - wide / 2, z - deep / 2, x + wide / 2, z + deep / 2


def walkable(house: House) -> set[Cell]:
    """Cells that the agent's middle can be in, of the part of the house that the first door belongs to."""
    blocked = [*walls(house)[0], *map(footprint, furniture(house))]
    width = max(room.box[2] for room in house.rooms)
    depth = max(room.box[3] for room in house.rooms)
    full: set[Cell] = set()
    for x0, z0, x1, z1 in blocked:
        for i in range(int((x0 - AGENT) / CELL), int((x1 + AGENT) / CELL) + 2):
            for j in range(int((z0 - AGENT) / CELL), int((z1 + AGENT) / CELL) + 2):
                dx, dz = max(x0 - i * CELL, i * CELL - x1, 0), max(z0 - j * CELL, j * CELL - z1, 0)
                if dx * dx + dz * dz < AGENT * AGENT:
                    full.add((i, j))
    x, _, z = house.doors[0].centre
    start = (round(x / CELL), round(z / CELL))
    assert start not in full, "the first doorway is blocked"
    waiting, seen = [start], {start}
    while waiting:
        i, j = waiting.pop()
        for cell in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            inside = 0 <= cell[0] * CELL <= width and 0 <= cell[1] * CELL <= depth
            if inside and cell not in full and cell not in seen:
                seen.add(cell)
                waiting.append(cell)
    return seen
