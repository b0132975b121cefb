"""The map of an episode's scene for reports: rooms and furniture of a house, else the navigable floor."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from erecap.envs.habitat.exploration import Floor
from erecap.envs.habitat.houses.floor_map import floor_map
from erecap.envs.habitat.robot import Robot
from erecap.protocols import FloorMap

Rectangle = tuple[float, float, float, float]


def map_of(robot: Robot) -> FloorMap:
    """The map of the robot's scene."""
    drawn = floor_map(robot.house)
    if not robot.house.rooms:
        drawn["floor"] = rectangles(robot.explored.floor)
    return drawn


def rectangles(floor: Floor) -> list[Rectangle]:
    """Navigable floor as few rectangles x0, z0, x1, z1: equal runs of neighbouring rows are joined."""
    open_runs: dict[tuple[int, int], int] = {}  # first and last column -> first row
    found = []
    for row in range(floor.cells.shape[0] + 1):
        runs = set(_runs(floor.cells[row])) if row < floor.cells.shape[0] else set()
        for run in sorted(set(open_runs) - runs):
            found.append(_rectangle(floor, open_runs.pop(run), row - 1, run))
        for run in runs - set(open_runs):
            open_runs[run] = row
    return sorted(found)


def _runs(cells: np.ndarray) -> list[tuple[int, int]]:
    runs = []
    for is_floor, group in groupby(range(len(cells)), key=lambda column: bool(cells[column])):
        columns = list(group)
        if is_floor:
            runs.append((columns[0], columns[-1]))
    return runs


def _rectangle(floor: Floor, first: int, last: int, run: tuple[int, int]) -> Rectangle:
    half = floor.metres / 2
    (x0, _, z0), (x1, _, z1) = floor.point((first, run[0])), floor.point((last, run[1]))
    return (round(x0 - half, 3), round(z0 - half, 3), round(x1 + half, 3), round(z1 + half, 3))
