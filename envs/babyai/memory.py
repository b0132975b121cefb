"""The agent's memory: the cells seen in this episode, and the names of the objects."""

from __future__ import annotations

from collections.abc import Iterator

from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

Cell = tuple[int, int]  # column, row in the world's grid


def visible_cells(level: RoomGridLevel) -> Iterator[tuple[Cell, int, int, WorldObj | None]]:
    """Each cell that the agent sees now, its own left out: (cell, steps ahead, steps to the right, content).

    Uses the level's own partial view (7 x 7 cells, agent in the middle of the last row, walls and closed
    doors hide what is behind them). Steps to the left are negative.
    """
    view, mask = level.gen_obs_grid()
    size = level.agent_view_size
    ax, ay = (int(v) for v in level.agent_pos)
    (fx, fy), (rx, ry) = level.dir_vec, level.right_vec
    for j in range(size):
        for i in range(size):
            ahead, right = size - 1 - j, i - size // 2
            if not mask[i, j] or (ahead, right) == (0, 0):
                continue
            cell = (int(ax + fx * ahead + rx * right), int(ay + fy * ahead + ry * right))
            if 0 <= cell[0] < level.width and 0 <= cell[1] < level.height:
                yield cell, ahead, right, view.get(i, j)


class Memory:
    """Seen cells with what stood there at the last look, and stable names of all objects seen.

    Names are "red ball" for the first red ball that came into view, "red ball 2" for the second, and so on;
    of two that come into view at once, the nearer one is named first.
    """

    def __init__(self) -> None:
        self.cells: dict[Cell, WorldObj | None] = {}  # last seen content, walls and doors included
        self.names: dict[WorldObj, str] = {}  # in the order of first sighting
        self.places: dict[WorldObj, Cell] = {}  # where each named object was last seen; carried: absent
        self._counts: dict[str, int] = {}

    def update(self, level: RoomGridLevel) -> bool:
        """Take in the agent's present view; True if an object came into view for the first time."""
        agent = (int(level.agent_pos[0]), int(level.agent_pos[1]))
        self.cells[agent] = level.grid.get(*agent)  # floor, or the open door that the agent stands in
        before = len(self.names)
        seen = sorted(visible_cells(level), key=lambda item: (item[1] + abs(item[2]), item[1], item[2]))
        for cell, _, _, content in seen:
            self._forget(cell, content)
            self.cells[cell] = content
            if content is not None and content.type != "wall":
                self._name(content)
                self.places[content] = cell
        if level.carrying is not None:
            self._name(level.carrying)
            self.places.pop(level.carrying, None)
        return len(self.names) > before

    def find(self, name: str) -> WorldObj | None:
        """The object of that name, or None if nothing of that name was seen."""
        return next((thing for thing, known in self.names.items() if known == name), None)

    def passable(self, cell: Cell) -> bool:
        """Return True if the cell was seen and can be walked on: floor or an open door."""
        if cell not in self.cells:
            return False
        content = self.cells[cell]
        return content is None or content.can_overlap()

    def empty(self, cell: Cell) -> bool:
        """Return True if the cell was seen and is bare floor, so that something can be put there."""
        return cell in self.cells and self.cells[cell] is None

    def _name(self, thing: WorldObj) -> None:
        if thing in self.names:
            return
        kind = f"{thing.color} {thing.type}"
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self.names[thing] = kind if self._counts[kind] == 1 else f"{kind} {self._counts[kind]}"

    def _forget(self, cell: Cell, content: WorldObj | None) -> None:
        """Drop what was thought to stand in `cell` and does not, and the old place of what moved there."""
        old = self.cells.get(cell)
        if old is not None and old is not content and self.places.get(old) == cell:
            del self.places[old]
        if content is not None and content in self.places and self.places[content] != cell:
            stale = self.places[content]
            if self.cells.get(stale) is content:
                self.cells[stale] = None  # nothing can stand in two places; most likely floor again
