"""Floor plans of generated worlds: rooms on a grid, doors between neighbours, and the split that a plan is in."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from erecap.errors import GameError

Cell = tuple[int, int]

GRID = 3  # cells in each direction
UNSEEN_SHARE = 4  # one floor plan in so many is unseen
LOOPS = 0.3  # probability of a hallway that no room needs to be reached
_MAX_DRAWS = 200


@dataclass(frozen=True)
class Layout:
    """A floor plan without names and sizes."""

    cells: tuple[Cell, ...]  # one room each; (column, row), sorted
    hallways: tuple[tuple[int, int], ...]  # indices into `cells`, the smaller first, sorted

    @property
    def split(self) -> str:
        """The split that this floor plan is in, whatever seed has drawn it."""
        written = json.dumps([self.cells, self.hallways]).encode()
        return "train" if int(hashlib.sha256(written).hexdigest(), 16) % UNSEEN_SHARE else "unseen"


def draw_layout(split: str, rooms: int, rng: random.Random) -> Layout:
    """Draw a floor plan of a split in which every room can be reached.

    Args:
        split: `train` or `unseen`.
        rooms: how many, 2 to `GRID`².

    Raises:
        GameError: none of `_MAX_DRAWS` plans was in the split; so many rooms allow too few different plans.
    """
    for _ in range(_MAX_DRAWS):
        layout = _draw(rooms, rng)
        if layout.split == split:
            return layout
    raise GameError(f"no floor plan of split {split} in {_MAX_DRAWS} draws with {rooms} rooms")


def _draw(rooms: int, rng: random.Random) -> Layout:
    cells = [(rng.randrange(GRID), rng.randrange(GRID))]
    tree = []
    while len(cells) < rooms:
        origin = rng.choice(cells)
        free = [cell for cell in _neighbours(origin) if cell not in cells]
        if free:
            cells.append(rng.choice(free))
            tree.append((origin, cells[-1]))
    # Moved to the corner of the grid, so that equal plans are the same wherever they were begun.
    left, low = min(x for x, _ in cells), min(y for _, y in cells)
    placed = sorted((x - left, y - low) for x, y in cells)
    index = {cell: number for number, cell in enumerate(placed)}
    pairs = {_pair(index[a[0] - left, a[1] - low], index[b[0] - left, b[1] - low]) for a, b in tree}
    for cell in placed:
        for other in _neighbours(cell):
            if other in index and cell < other and rng.random() < LOOPS:
                pairs.add(_pair(index[cell], index[other]))
    return Layout(tuple(placed), tuple(sorted(pairs)))


def _neighbours(cell: Cell) -> list[Cell]:
    x, y = cell
    around = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
    return [(a, b) for a, b in around if 0 <= a < GRID and 0 <= b < GRID]


def _pair(a: int, b: int) -> tuple[int, int]:
    return min(a, b), max(a, b)
