"""pyrobosim's world of a world file, and the path planners of its robots; what does not fit is refused in one line."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyrobosim.navigation.a_star
import pyrobosim.navigation.prm
import pyrobosim.navigation.rrt
import pyrobosim.navigation.world_graph  # noqa: F401  # this and those above register their planners
from pyrobosim.core import World, WorldYamlLoader
from pyrobosim.navigation.types import PathPlanner
from shapely.errors import ShapelyError

from erecap.errors import GameError

PLANNER = {"type": "astar", "grid_resolution": 0.05, "grid_inflation_radius": 0.15}  # where a world names none
# What pyrobosim raises for worlds that do not fit it.
_UNFIT = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    OSError,
    ShapelyError,
)


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Refuse what pyrobosim fails at.

    Args:
        what: is made within, for the message.

    Raises:
        GameError: with the error in one line; of one without words, the line of code that raised it.
    """
    try:
        yield
    except _UNFIT as error:
        words = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
        raise GameError(f"{what}: {type(error).__name__}: {words}") from error


def playable(world: Mapping[str, Any], robots: int | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A copy with so many robots and without their sensors, which measure in threads and in wall time; and the settings
    of each robot's path planner."""
    plain = copy.deepcopy(dict(world))
    plain["robots"] = plain["robots"][:robots]
    planners = []
    for robot in plain["robots"]:
        for key in ("sensors", "partial_obs_objects", "partial_obs_hallways"):
            robot.pop(key, None)
        robot["start_sensor_threads"] = False
        planners.append(robot.pop("path_planner", None) or PLANNER)
    return plain, planners


def load_world(world: Mapping[str, Any], folder: Path | None) -> World:
    """Load a world of `playable`.

    Args:
        folder: base of relative paths in it.

    Raises:
        GameError: pyrobosim cannot load it, or something of it has no place.
    """
    with fitting("pyrobosim cannot load the world"):
        loaded = WorldYamlLoader().from_yaml(world, folder)
    made = {
        "rooms": loaded.rooms,
        "hallways": loaded.hallways,
        "locations": loaded.locations,
        "objects": loaded.objects,
        "robots": loaded.robots,
    }
    for part, entities in made.items():
        wanted = len(world.get(part) or [])
        if len(entities) != wanted:
            there = ", ".join(entity.name for entity in entities)
            placed = f"pyrobosim placed {len(entities)} of the world's {wanted} {part}"
            raise GameError(f"{placed} ({there}); the others collide or have no parent")
    return loaded


def make_path_planner(settings: Mapping[str, Any], owner: str) -> PathPlanner:
    """A path planner; its `type` is one of pyrobosim's.

    Args:
        owner: for messages.

    Raises:
        GameError: no such type, or settings that it does not take.
    """
    rest = {key: value for key, value in settings.items() if key != "type"}
    kind = PathPlanner.registered_plugins.get(str(settings.get("type")))
    if kind is None:
        allowed = ", ".join(sorted(PathPlanner.registered_plugins))
        raise GameError(f"{owner}: got {settings.get('type')!r}; allowed: {allowed}")
    with fitting(owner):
        return kind(**rest)
