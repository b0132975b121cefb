"""The map of a world for reports, and the ways of its robots. pyrobosim's y grows upwards, that of a map downwards."""

from __future__ import annotations

from typing import Any

from erecap.envs.pyrobosim.simulation import Simulation
from erecap.protocols import FloorMap

Point = tuple[float, float]


def floor_map(simulation: Simulation) -> FloorMap:
    """The world as it is now, seen from above; hallways are rooms without a name, with a door where they are shut."""
    world = simulation.world
    rooms = [{"name": simulation.name(room), "outline": _outline(room.polygon)} for room in world.rooms]
    hallways = [{"name": "", "outline": _outline(hallway.polygon)} for hallway in world.hallways]
    return FloorMap(
        rooms=[*hallways, *rooms],
        doors=[{"ends": _across(hallway), "open": False} for hallway in world.hallways if not hallway.is_open],
        furniture=[
            {"name": simulation.name(place), "outline": _outline(place.polygon), "colour": _colour(place)}
            for place in world.locations
        ],
        things=[
            {"name": simulation.name(item), "at": _point(item.pose.x, item.pose.y), "colour": _colour(item)}
            for item in world.objects
        ],
    )


def standing(simulation: Simulation) -> dict[str, list[Point]]:
    """Where each robot is."""
    poses = {simulation.name(robot): robot.get_pose() for robot in simulation.robots}
    return {name: [_point(pose.x, pose.y)] for name, pose in poses.items()}


def take_trails(simulation: Simulation) -> dict[str, list[Point]]:
    """Points that robots have passed since this was last asked; robots that did not move are left out."""
    found = {}
    for robot in simulation.robots:
        passed = robot.path_executor.take_passed()
        if passed:
            found[simulation.name(robot)] = [_point(x, y) for x, y in passed]
    return found


def _across(hallway: Any) -> list[Point]:
    """The line of a shut door: through the hallway's middle, at right angles to the way between its rooms."""
    (ax, ay), (bx, by) = hallway.room_start.centroid, hallway.room_end.centroid
    x, y = hallway.polygon.centroid.coords[0]
    length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5 or 1.0
    dx, dy = -(by - ay) / length * hallway.width / 2, (bx - ax) / length * hallway.width / 2
    return [_point(x - dx, y - dy), _point(x + dx, y + dy)]


def _outline(polygon: Any) -> list[Point]:
    return [_point(x, y) for x, y in list(polygon.exterior.coords)[:-1]]


def _point(x: float, y: float) -> Point:
    return round(float(x), 3), round(-float(y), 3)


def _colour(entity: Any) -> str:
    red, green, blue = (round(255 * float(share)) for share in entity.viz_color[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
