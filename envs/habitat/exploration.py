"""Explored floor of an episode: the cells that were seen, and the frontiers where seen floor ends."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST_UNSEEN = 0.6  # square metres of unseen floor that are worth a look
FEWEST_CELLS = 3  # of a frontier
SAME = 1.0  # metres within which a frontier of now is one of before
_BESIDE = ((0, 1), (1, 0), (0, -1), (-1, 0))
_AROUND = (*_BESIDE, (1, 1), (1, -1), (-1, 1), (-1, -1))
Cell = tuple[int, int]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Frontier:
    """A stretch of seen floor that borders on unseen floor."""

    name: str
    point: Point  # on navigable floor
    beyond: Point  # the middle of the unseen floor beside it


class Floor:
    """Navigable cells of one floor.

    Args:
        cells: (rows, columns) bool, rows along z, columns along x.
        corner: x and z of cell (0, 0).
        metres: width of a cell.
        height: y of the floor.
    """

    def __init__(self, cells: np.ndarray, corner: tuple[float, float], metres: float, height: float) -> None:
        self.cells, self.corner, self.metres, self.height = cells.astype(bool), corner, metres, height

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any], height: float) -> Floor:
        """The floor of the worker's answer to `map`."""
        rows, columns = answer["shape"]
        bits = np.unpackbits(np.frombuffer(base64.b64decode(answer["cells"]), dtype=np.uint8))
        x, z = answer["corner"]
        return cls(bits[: rows * columns].reshape(rows, columns), (x, z), answer["metres"], height)

    def cell(self, x: float, z: float) -> Cell:
        """Row and column of a point; they may lie outside the grid."""
        return round((z - self.corner[1]) / self.metres), round((x - self.corner[0]) / self.metres)

    def point(self, cell: tuple[float, float]) -> Point:
        """The middle of a cell."""
        row, column = cell
        x, z = self.corner[0] + column * self.metres, self.corner[1] + row * self.metres
        return (round(x, 4), self.height, round(z, 4))


class Explored:
    """The seen cells of a floor, and its frontiers under names that stay."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.seen = np.zeros_like(floor.cells)
        self.frontiers: list[Frontier] = []
        self._named: list[tuple[float, float]] = []  # where the frontiers were that have had a number

    def add(self, glimpses: Iterable[Mapping[str, Any]]) -> None:
        """Take in glimpses: poses with the distances at which something blocks the view, one for each degree."""
        floor = self.floor
        for glimpse in glimpses:
            x, _, z = glimpse["position"]
            angles = np.radians(glimpse["yaw"] + glimpse["first"] + np.arange(len(glimpse["scan"])))
            far = np.asarray(glimpse["scan"])
            steps = np.arange(0.0, float(far.max(initial=0.0)) + floor.metres / 2, floor.metres / 2)
            clear = steps[None, :] <= far[:, None]
            xs = x - np.sin(angles)[:, None] * steps[None, :]
            zs = z - np.cos(angles)[:, None] * steps[None, :]
            columns = np.rint((xs - floor.corner[0]) / floor.metres).astype(int)
            rows = np.rint((zs - floor.corner[1]) / floor.metres).astype(int)
            inside = clear & (rows >= 0) & (rows < self.seen.shape[0]) & (columns >= 0) & (columns < self.seen.shape[1])
            self.seen[rows[inside], columns[inside]] = True
            self._see_feet(*floor.cell(x, z))
        self._find_frontiers()

    def has_seen(self, x: float, z: float) -> bool:
        """True if a point of the floor was seen."""
        row, column = self.floor.cell(x, z)
        inside = 0 <= row < self.seen.shape[0] and 0 <= column < self.seen.shape[1]
        return inside and bool(self.seen[row, column])

    def nearest_seen(self, x: float, z: float, box: tuple[float, float, float, float]) -> Point | None:
        """The seen navigable point of a box x0, z0, x1, z1 that is nearest to a point; None if there is none."""
        cells = np.argwhere(self.seen & self.floor.cells)
        points = np.array(self.floor.corner)[::-1] + cells * self.floor.metres  # z, x
        inside = ((points >= (box[1], box[0])) & (points <= (box[3], box[2]))).all(axis=1)
        if not inside.any():
            return None
        far = np.where(inside, np.hypot(points[:, 0] - z, points[:, 1] - x), np.inf)
        return self.floor.point(tuple(cells[int(far.argmin())].tolist()))

    def give_up(self, name: str) -> None:
        """Count the unseen floor at a frontier as seen: the robot was there and sees no more of it."""
        frontier = next(frontier for frontier in self.frontiers if frontier.name == name)
        row, column = self.floor.cell(frontier.point[0], frontier.point[2])
        reach = round(SAME / self.floor.metres)
        self.seen[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
        self._find_frontiers()

    def _see_feet(self, row: int, column: int) -> None:
        reach = round(0.5 / self.floor.metres)
        self.seen[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True

    def _find_frontiers(self) -> None:
        unseen = self.floor.cells & ~self.seen
        fewest = FEWEST_UNSEEN / self.floor.metres**2
        border = np.zeros_like(unseen)
        for piece in _pieces(unseen, _BESIDE):
            if len(piece) >= fewest:
                rows, columns = np.array(piece).T
                border[rows, columns] = True
        known = self.floor.cells & self.seen & _spread(border)
        found = []
        for piece in _pieces(known, _AROUND):
            if len(piece) >= FEWEST_CELLS:
                middle = np.array(piece).mean(axis=0)
                nearest = min(piece, key=lambda cell: (math.dist(cell, middle), cell))
                found.append((self.floor.point(nearest), self._beyond(nearest, border)))
        used: set[int] = set()
        self.frontiers = [
            Frontier(f"frontier {self._number(point[0], point[2], used)}", point, beyond)
            for point, beyond in sorted(found)
        ]

    def _beyond(self, cell: Cell, unseen: np.ndarray) -> Point:
        """The middle of the unseen cells within a metre of a cell."""
        cells = np.argwhere(unseen)
        near = cells[np.hypot(*(cells - np.array(cell)).T) * self.floor.metres <= SAME]
        row, column = near.mean(axis=0)
        return self.floor.point((row, column))

    def _number(self, x: float, z: float, used: set[int]) -> int:
        """The number of the nearest frontier of before, else a new one."""
        near = sorted((math.dist((x, z), old), index) for index, old in enumerate(self._named) if index not in used)
        if near and near[0][0] <= SAME:
            number = near[0][1]
            self._named[number] = (x, z)
        else:
            number = len(self._named)
            self._named.append((x, z))
        used.add(number)
        return number + 1


def _spread(cells: np.ndarray) -> np.ndarray:
    """Cells that lie beside one of the cells."""
    spread = np.zeros_like(cells)
    spread[1:, :] |= cells[:-1, :]
    spread[:-1, :] |= cells[1:, :]
    spread[:, 1:] |= cells[:, :-1]
    spread[:, :-1] |= cells[:, 1:]
    return spread


def _pieces(cells: np.ndarray, steps: tuple[Cell, ...]) -> list[list[Cell]]:
    """Connected pieces of a set of cells, in the order of their first cells."""
    left = set(map(tuple, np.argwhere(cells).tolist()))
    pieces = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        piece, border = [start], [start]
        while border:
            row, column = border.pop()
            for down, right in steps:
                cell = (row + down, column + right)
                if cell in left:
                    left.remove(cell)
                    piece.append(cell)
                    border.append(cell)
        pieces.append(piece)
    return pieces
