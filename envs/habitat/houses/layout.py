"""Rooms and doors of a generated house: a floor plan with names, sizes and doorways."""

from __future__ import annotations

import random
from dataclasses import dataclass

from erecap.envs.floor_plans import Layout
from erecap.envs.habitat.houses.house import Door, Room
from erecap.envs.habitat.houses.rooms import ROOMS

WALL = 0.12  # metres, its thickness
SIDES = (3.7, 4.9)  # least and greatest distance between the middles of opposite walls, in metres
DOOR = 1.1  # width of a doorway, in metres
CORNER = 0.5  # least distance between a doorway and the corner of a room, in metres
DOOR_DEPTH = 0.95  # metres in front of a doorway where nothing stands

Rect = tuple[float, float, float, float]  # x0, z0, x1, z1 in metres


@dataclass(frozen=True)
class Shell:
    """A house without furniture."""

    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]


def draw_shell(layout: Layout, rng: random.Random) -> Shell:
    """Give a floor plan names, sizes and doorways; cells of a column are equally wide, those of a row equally deep."""
    columns = _edges(1 + max(x for x, _ in layout.cells), rng)
    rows = _edges(1 + max(z for _, z in layout.cells), rng)
    names = rng.sample(sorted(ROOMS), len(layout.cells))
    rooms = []
    for name, (x, z) in zip(names, layout.cells, strict=True):
        half = WALL / 2
        box = (columns[x] + half, rows[z] + half, columns[x + 1] - half, rows[z + 1] - half)
        rooms.append(Room(name, name, tuple(round(value, 3) for value in box)))  # type: ignore[arg-type]
    doors = []
    for a, b in layout.hallways:
        (ax, az), (bx, bz) = layout.cells[a], layout.cells[b]
        if ax == bx:  # one row lies behind the other: the wall between them runs along x
            x = _on_wall(columns[ax], columns[ax + 1], rng)
            z = rows[max(az, bz)]
        else:
            x = columns[max(ax, bx)]
            z = _on_wall(rows[az], rows[az + 1], rng)
        doors.append(Door((names[a], names[b]), (round(x, 3), 0.0, round(z, 3)), DOOR))
    return Shell(tuple(rooms), tuple(doors))


def doorways(room: Room, doors: tuple[Door, ...]) -> list[tuple[Rect, tuple[float, float]]]:
    """The free floor inside a room before each of its doors, and the point in the middle of it."""
    found = []
    x0, z0, x1, z1 = room.box
    for door in doors:
        if room.name not in door.rooms:
            continue
        x, _, z = door.centre
        half = door.width / 2
        if z < z0:
            free = (x - half, z0, x + half, z0 + DOOR_DEPTH)
        elif z > z1:
            free = (x - half, z1 - DOOR_DEPTH, x + half, z1)
        elif x < x0:
            free = (x0, z - half, x0 + DOOR_DEPTH, z + half)
        else:
            free = (x1 - DOOR_DEPTH, z - half, x1, z + half)
        found.append((free, ((free[0] + free[2]) / 2, (free[1] + free[3]) / 2)))
    return found


def _edges(count: int, rng: random.Random) -> list[float]:
    edges = [0.0]
    for _ in range(count):
        edges.append(round(edges[-1] + rng.uniform(*SIDES), 2))
    return edges


def _on_wall(low: float, high: float, rng: random.Random) -> float:
    reach = WALL / 2 + CORNER + DOOR / 2
    return rng.uniform(low + reach, high - reach)
