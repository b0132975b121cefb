"""Pictures of an episode: the map of the floor with the path, and the camera's view beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from erecap.envs.habitat.directions import Point
from erecap.envs.habitat.robot import Robot

SIDE = 480  # pixels of the map's longer side, and height of a picture with the camera's view
_WALL, _UNSEEN, _SEEN = (70, 74, 82), (168, 172, 180), (244, 244, 240)
_FURNITURE, _OBJECT, _PATH, _START, _GOAL, _ROBOT = (
    (203, 190, 165),
    (120, 96, 160),
    (36, 110, 200),
    (30, 150, 80),
    (214, 40, 57),
    (20, 60, 120),
)


def draw_map(robot: Robot, goals: Iterable[Point]) -> np.ndarray:
    """The floor with what was seen of it, furniture, the path, start, goals, and the robot: (height, width, 3) uint8."""
    floor, seen = robot.explored.floor, robot.explored.seen
    picture = np.empty((*floor.cells.shape, 3), dtype=np.uint8)
    picture[:] = _WALL
    picture[floor.cells & ~seen] = _UNSEEN
    picture[floor.cells & seen] = _SEEN
    scale = max(1, SIDE // max(picture.shape[:2]))
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    canvas = _Canvas(picture, floor.corner, scale / floor.metres)
    for thing in robot.house.things:
        centre = robot.where[thing.id].centre
        canvas.box(centre, thing.size, _OBJECT if thing.movable else _FURNITURE)
    for first, second in zip(robot.trace, [*robot.trace[1:], robot.pose.position], strict=True):
        canvas.line(first, second, _PATH)
    canvas.disc(robot.start.position, 0.16, _START)
    for goal in goals:
        canvas.disc(goal, 0.2, _GOAL)
    x, y, z = robot.pose.position
    angle = math.radians(robot.pose.yaw)
    canvas.disc((x, y, z), 0.2, _ROBOT)
    canvas.line((x, y, z), (x - 0.5 * math.sin(angle), y, z - 0.5 * math.cos(angle)), _ROBOT)
    return picture


def camera_view(answer: Mapping[str, Any]) -> np.ndarray:
    """The picture of the worker's answer to `picture`."""
    return np.frombuffer(base64.b64decode(answer["rgb"]), dtype=np.uint8).reshape(answer["shape"])


def beside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two pictures side by side, the lower one on a dark ground."""
    height = max(first.shape[0], second.shape[0])
    joined = np.full((height, first.shape[1] + second.shape[1] + 8, 3), 30, dtype=np.uint8)
    joined[: first.shape[0], : first.shape[1]] = first
    joined[: second.shape[0], first.shape[1] + 8 :] = second
    return joined


class _Canvas:
    """Draws in metres on a picture."""

    def __init__(self, picture: np.ndarray, corner: tuple[float, float], scale: float) -> None:
        self.picture, self.corner, self.scale = picture, corner, scale

    def _pixel(self, x: float, z: float) -> tuple[int, int]:
        half = 0.05
        return round((z - self.corner[1] + half) * self.scale), round((x - self.corner[0] + half) * self.scale)

    def box(self, centre: Point, size: Point, colour: tuple[int, int, int]) -> None:
        top, left = self._pixel(centre[0] - size[0] / 2, centre[2] - size[2] / 2)
        bottom, right = self._pixel(centre[0] + size[0] / 2, centre[2] + size[2] / 2)
        self.picture[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = colour

    def disc(self, point: Point, radius: float, colour: tuple[int, int, int]) -> None:
        row, column = self._pixel(point[0], point[2])
        rows, columns = np.ogrid[: self.picture.shape[0], : self.picture.shape[1]]
        self.picture[(rows - row) ** 2 + (columns - column) ** 2 <= (radius * self.scale) ** 2] = colour

    def line(self, first: Point, second: Point, colour: tuple[int, int, int]) -> None:
        steps = max(2, int(math.dist(first, second) * self.scale * 2))
        for share in np.linspace(0.0, 1.0, steps):
            x = first[0] + (second[0] - first[0]) * share
            z = first[2] + (second[2] - first[2]) * share
            row, column = self._pixel(x, z)
            self.picture[max(0, row - 1) : max(0, row + 1), max(0, column - 1) : max(0, column + 1)] = colour
