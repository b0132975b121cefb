"""Free passage inside a room: whether points can be walked between, past what stands there."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.envs.habitat.houses.layout import Rect

CELL = 0.1  # metres
CLEARANCE = 0.4  # metres to either side of whoever walks: passages are twice as wide


def connected(room: Rect, standing: Sequence[Rect], points: Sequence[tuple[float, float]]) -> bool:
    """True if all points are free and joined by passages in which everything keeps `CLEARANCE`, walls included.

    Args:
        room: its inside.
        standing: what stands in it, seen from above.
        points: (x, z) inside the room.
    """
    x0, z0, x1, z1 = room
    columns, rows = int((x1 - x0) / CELL) + 1, int((z1 - z0) / CELL) + 1
    free = [bytearray(rows) for _ in range(columns)]
    for i in range(columns):
        x = x0 + i * CELL
        if not x0 + CLEARANCE <= x <= x1 - CLEARANCE:
            continue
        near = [one for one in standing if one[0] - CLEARANCE < x < one[2] + CLEARANCE]
        for j in range(rows):
            z = z0 + j * CELL
            blocked = any(one[1] - CLEARANCE < z < one[3] + CLEARANCE for one in near)
            free[i][j] = z0 + CLEARANCE <= z <= z1 - CLEARANCE and not blocked
    wanted = {(round((x - x0) / CELL), round((z - z0) / CELL)) for x, z in points}
    if not all(0 <= i < columns and 0 <= j < rows and free[i][j] for i, j in wanted):
        return False
    waiting = [next(iter(wanted))] if wanted else []
    seen = set(waiting)
    while waiting:
        i, j = waiting.pop()
        for there in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= there[0] < columns and 0 <= there[1] < rows and free[there[0]][there[1]] and there not in seen:
                seen.add(there)
                waiting.append(there)
    return wanted <= seen
