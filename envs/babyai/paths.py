"""Shortest ways over the cells that were seen, counted in low-level actions: one per step, one per turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from minigrid.core.actions import Actions
from minigrid.core.constants import DIR_TO_VEC
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

from erecap.envs.babyai.memory import Cell, Memory

Pose = tuple[int, int, int]  # column, row, direction (0 right, 1 down, 2 left, 3 up)
_VECTORS = [(int(v[0]), int(v[1])) for v in DIR_TO_VEC]
_RING = [(-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0)]  # around a cell, clockwise


def front(pose: Pose) -> Cell:
    """The cell that the pose faces."""
    x, y, direction = pose
    return x + _VECTORS[direction][0], y + _VECTORS[direction][1]


def neighbours(cell: Cell) -> list[Cell]:
    """The four cells beside `cell`, whether or not they are in the grid."""
    return [(cell[0] + dx, cell[1] + dy) for dx, dy in _VECTORS]


def nearest(memory: Memory, start: Pose, wanted: Callable[[Cell], bool]) -> tuple[list[Actions], Cell] | None:
    """The fewest actions after which the agent faces a wanted cell, and that cell; None if there is no way.

    Breadth first over poses, through seen floor and open doors only. Ties go to forward, left, right in this
    order, so the answer depends on nothing but the arguments.
    """
    came_from: dict[Pose, tuple[Pose, Actions] | None] = {start: None}
    queue = deque([start])
    while queue:
        pose = queue.popleft()
        ahead = front(pose)
        if wanted(ahead):
            actions: list[Actions] = []
            link = came_from[pose]
            while link is not None:
                previous, action = link
                actions.append(action)
                link = came_from[previous]
            return actions[::-1], ahead
        x, y, direction = pose
        following = [
            ((x, y, (direction - 1) % 4), Actions.left),
            ((x, y, (direction + 1) % 4), Actions.right),
        ]
        if memory.passable(ahead):
            following.insert(0, ((*ahead, direction), Actions.forward))
        for neighbour, action in following:
            if neighbour not in came_from:
                came_from[neighbour] = (pose, action)
                queue.append(neighbour)
    return None


def walled_in(level: RoomGridLevel) -> set[WorldObj]:
    """Objects that the agent cannot get at unless it moves others out of the way. Doors count as open, seen or not."""
    reached, queue = {tuple(level.agent_pos)}, deque([tuple(level.agent_pos)])
    faced: set[WorldObj] = set()
    while queue:
        for cell in neighbours(queue.popleft()):
            content = level.grid.get(*cell)
            if content is not None:
                faced.add(content)
            if cell not in reached and (content is None or content.type == "door"):
                reached.add(cell)
                queue.append(cell)
    return {thing for thing in level.grid.grid if thing is not None and thing.type != "wall"} - faced


def touchable(memory: Memory, start: Cell, blocked: Cell | None = None) -> set[Cell]:
    """All cells that the agent can stand on or face, if `blocked` held an obstacle. Includes unseen ones."""
    stood, queue = {start}, deque([start])
    faced: set[Cell] = set()
    while queue:
        for cell in neighbours(queue.popleft()):
            faced.add(cell)
            if cell not in stood and cell != blocked and memory.passable(cell):
                stood.add(cell)
                queue.append(cell)
    return stood | faced


def out_of_the_way(memory: Memory, start: Cell, cell: Cell, by_doors: bool = False) -> bool:
    """Return True if an object put on `cell` bars no way: nothing is cut off, no short way becomes a long one.

    Cells beside a door count as in the way unless `by_doors`.
    """
    if cell == start or (not by_doors and any(_is_door(memory, beside) for beside in neighbours(cell))):
        return False
    x, y = cell
    ring = [(x + dx, y + dy) for dx, dy in _RING]
    free = [memory.passable(other) for other in ring]
    # More than one stretch of free cells around it: the object would stand between them.
    if sum(free[i] != free[i - 1] for i in range(len(ring))) > 2:
        return False
    return touchable(memory, start) - {cell} <= touchable(memory, start, blocked=cell)


def _is_door(memory: Memory, cell: Cell) -> bool:
    content = memory.cells.get(cell)
    return content is not None and content.type == "door"
