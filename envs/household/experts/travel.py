"""Distances on a floor plan's own grid of reachable points.

The engine's locations carry the grid point in their name (`loc|x|z|turn|horizon`, in steps of 0.25 m). Generated and
published games do so alike, so one rule measures both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache

import networkx as nx

from erecap.envs.household.data.rooms import STEP, Point, load_points
from erecap.errors import GameError

_LOCATION = re.compile(r"loc_bar_(?P<x>(?:_minus_)?\d+)_bar_(?P<z>(?:_minus_)?\d+)_bar_")


def location_point(location: str) -> Point:
    """Grid point of a location's PDDL name, such as `loc_bar__minus_4_bar_5_bar_2_bar_30` -> (-4, 5).

    Raises:
        GameError: the name holds no grid point.
    """
    match = _LOCATION.match(location)
    if match is None:
        raise GameError(f"location {location!r} does not name a grid point (loc_bar_X_bar_Z_bar_TURN_bar_HORIZON)")
    x, z = (int(part.replace("_minus_", "-")) for part in match.groups())
    return x, z


class FloorPlan:
    """The graph of reachable points: neighbours are one step (0.25 m) apart along x or z.

    Some plans fall into parts because points too near to furniture were left out of the files. Parts are joined
    by the shortest straight line between them, at its own length.
    """

    def __init__(self, points: Iterable[Point]) -> None:
        """`points` are reachable grid points. Raises ValueError if there are none."""
        self.graph = nx.Graph()
        self.graph.add_nodes_from(sorted(points))
        if not self.graph:
            raise ValueError("a floor plan needs at least one reachable point")
        for x, z in list(self.graph):
            for neighbour in ((x + 1, z), (x, z + 1)):
                if neighbour in self.graph:
                    self.graph.add_edge((x, z), neighbour, metres=STEP)
        self._join_parts()
        self._from: dict[Point, dict[Point, float]] = {}
        self._snapped: dict[Point, Point] = {}

    def distance(self, start: Point, end: Point) -> float:
        """Metres of the shortest walk. A point off the grid counts as the reachable point nearest to it."""
        start, end = self.snap(start), self.snap(end)
        if start not in self._from:
            self._from[start] = nx.single_source_dijkstra_path_length(self.graph, start, weight="metres")
        return self._from[start][end]

    def between(self, start: str, end: str) -> float:
        """Metres between two locations given by their PDDL names."""
        return self.distance(location_point(start), location_point(end))

    def snap(self, point: Point) -> Point:
        """The reachable point nearest to `point`; the smaller coordinates win a tie."""
        if point in self.graph:
            return point
        if point not in self._snapped:
            self._snapped[point] = min(self.graph, key=lambda other: (math.dist(point, other), other))
        return self._snapped[point]

    def _join_parts(self) -> None:
        parts = sorted(nx.connected_components(self.graph), key=lambda part: (-len(part), min(part)))
        whole = set(parts[0])
        for part in parts[1:]:
            length, near, far = min((math.dist(a, b), a, b) for a in whole for b in part)
            self.graph.add_edge(near, far, metres=length * STEP)
            whole |= part


@cache
def floor_plan(number: int) -> FloorPlan:
    """The floor plan of a room by its number. Raises GameError if the alfworld package has no such room."""
    return FloorPlan(load_points(number))
