"""Seeded worlds in pyrobosim's YAML schema: a floor plan, furniture along the walls, objects on and in it, robots."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.envs.draws import UselessDraw
from erecap.envs.floor_plans import draw_layout
from erecap.envs.pyrobosim.options import PyRoboSimOptions

DATA = Path(__file__).parents[1] / "data"
OBJECTS = ("apple", "ball", "book", "bottle", "bowl", "cup", "lamp", "phone", "plate", "towel")
CONTAINERS = ("cabinet", "chest", "fridge")
# Room -> what may stand in it. Every room can have something open and something closed.
ROOMS = {
    "bathroom": ("cabinet", "counter", "shelf"),
    "bedroom": ("bed", "chest", "desk", "shelf", "chair"),
    "dining_room": ("table", "chair", "cabinet", "shelf"),
    "garage": ("shelf", "cabinet", "table", "chest"),
    "kitchen": ("counter", "fridge", "table", "cabinet"),
    "laundry": ("counter", "cabinet", "shelf", "chest"),
    "library": ("shelf", "desk", "table", "cabinet"),
    "living_room": ("sofa", "table", "shelf", "chest"),
    "office": ("desk", "shelf", "cabinet", "chair"),
    "workshop": ("table", "shelf", "chest", "counter"),
}
PITCH = 5.0  # metres between the middles of neighbouring rooms
SIDES = (3.2, 4.0)  # least and greatest length of a wall, in metres
DOOR = 0.8  # width of a hallway, in metres
RADIUS = 0.1  # of a robot, in metres
SPEED = 0.5  # of a robot, in metres a second
REACH = 4.0  # longest straight piece of a way, in metres
_HIDDEN = 0.25  # share of the objects that lie in something closed, where there is something


def generate_world(options: PyRoboSimOptions, rng: random.Random) -> dict[str, Any]:
    """Draw a world.

    Args:
        options: `split`, `rooms`, `objects`, `closed_doors`, `robots`, and whether anything costs battery are read.
        rng: decides everything else.

    Returns:
        The world in pyrobosim's YAML schema, fit for `yaml.safe_dump`.

    Raises:
        GameError: no floor plan of the split with so many rooms was found.
    """
    layout = draw_layout(options.split, rng.randint(*options.rooms), rng)
    names = rng.sample(sorted(ROOMS), len(layout.cells))
    sizes = [(rng.uniform(*SIDES), rng.uniform(*SIDES)) for _ in names]
    middles = [(PITCH * x, PITCH * y) for x, y in layout.cells]
    start, robots = rng.randrange(len(names)), options.robots or 1
    charger = bool(options.battery_per_metre or options.battery_per_waiting_second)
    locations = _furniture(names, sizes, middles, start, charger, rng)
    return {
        "params": {"name": "world", "object_radius": 0.01},
        "metadata": {"locations": [str(DATA / "furniture.yaml")], "objects": [str(DATA / "objects.yaml")]},
        "rooms": [
            {"name": name, "footprint": {"type": "box", "dims": [*size]}, "pose": _pose(*middle), "wall_width": 0.2}
            for name, size, middle in zip(names, sizes, middles, strict=True)
        ],
        "hallways": [
            {
                "room_start": names[a],
                "room_end": names[b],
                "width": DOOR,
                "is_open": rng.random() >= options.closed_doors,
            }
            for a, b in layout.hallways
        ],
        "locations": locations,
        "objects": _objects(locations, options.objects, rng),
        "robots": [_robot(number, robots, names[start], middles[start]) for number in range(robots)],
    }


def _furniture(
    rooms: Sequence[str],
    sizes: Sequence[tuple[float, float]],
    middles: Sequence[tuple[float, float]],
    start: int,
    charger: bool,
    rng: random.Random,
) -> list[dict[str, Any]]:
    # Furniture stands in the corners, so that the ways from the middle of a room to its doors stay free.
    counts: dict[str, int] = {}
    made = []
    for number, (room, (wide, deep), (x, y)) in enumerate(zip(rooms, sizes, middles, strict=True)):
        wanted = rng.sample(ROOMS[room], rng.randint(2, 3))
        if all(category in CONTAINERS for category in wanted):
            wanted[0] = next(category for category in ROOMS[room] if category not in CONTAINERS)
        if number == len(rooms) - 1 and not any(place["category"] in CONTAINERS for place in made):
            wanted[-1] = next(category for category in ROOMS[room] if category in CONTAINERS)
        if number == start and charger:
            wanted.append("charger")
        corners = rng.sample([(side, back) for side in (-1, 1) for back in (-1, 1)], len(wanted))
        for category, (side, back) in zip(wanted, corners, strict=True):
            counts[category] = counts.get(category, 0) + 1
            closed = category in CONTAINERS
            made.append(
                {
                    "name": f"{category}_{counts[category]}",
                    "category": category,
                    "parent": room,
                    "pose": _pose(
                        x + side * (wide / 2 - 0.5), y + back * (deep / 2 - 0.3), 0.0 if back > 0 else math.pi
                    ),
                    "is_open": not closed,
                    "is_locked": not closed,
                    "is_charger": category == "charger",
                }
            )
    return made


def _objects(locations: Sequence[dict[str, Any]], count: int, rng: random.Random) -> list[dict[str, Any]]:
    shown = [place["name"] for place in locations if place["is_open"] and not place["is_charger"]]
    hidden = [place["name"] for place in locations if not place["is_open"]]
    lying: dict[str, int] = dict.fromkeys((*shown, *hidden), 0)
    counts: dict[str, int] = {}
    made = []
    for _ in range(count):
        wanted = hidden if hidden and rng.random() < _HIDDEN else shown
        # The emptiest of two, so that no place is crowded.
        place = min(rng.choices(wanted, k=2), key=lying.__getitem__)
        if lying[place] >= 6:
            raise UselessDraw(f"pyrobosim: {count} objects do not fit on {len(lying)} places; set fewer objects")
        lying[place] += 1
        category = rng.choice(OBJECTS)
        counts[category] = counts.get(category, 0) + 1
        made.append({"name": f"{category}_{counts[category]}", "category": category, "parent": f"{place}_top"})
    return made


def _robot(number: int, count: int, room: str, middle: tuple[float, float]) -> dict[str, Any]:
    angle = 2 * math.pi * number / count
    away = 0.0 if count == 1 else 0.45
    return {
        "name": f"robot_{number + 1}",
        "radius": RADIUS,
        "location": room,
        "pose": _pose(middle[0] + away * math.cos(angle), middle[1] + away * math.sin(angle)),
        "path_planner": {"type": "world_graph", "collision_check_step_dist": 0.05, "max_connection_dist": REACH},
        "path_executor": {"type": "constant_velocity", "linear_velocity": SPEED},
    }


def _pose(x: float, y: float, yaw: float = 0.0) -> dict[str, Any]:
    pose: dict[str, Any] = {"position": {"x": x, "y": y}}
    if yaw:
        pose["rotation_eul"] = {"yaw": yaw}
    return pose
