"""Map of the ways between rooms, as the expert reckons with them: closed doors on a way, and about how far it is."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np

from erecap.envs.pyrobosim.simulation import Hallway, Room, Simulation, Target

OPENING = 3.0  # metres that a closed door counts for: an open way is rather taken


class Ways:
    """Rooms and the hallways that can be passed, those that have to be opened first included."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._graph = nx.Graph()
        self._graph.add_nodes_from(room.name for room in simulation.world.rooms)
        for hallway in simulation.world.hallways:
            if hallway.is_open or not hallway.is_locked:
                a, b = hallway.room_start, hallway.room_end
                weight = _metres(a.centroid, b.centroid) + (0.0 if hallway.is_open else OPENING)
                known = self._graph.get_edge_data(a.name, b.name)
                if known is None or weight < known["weight"]:
                    self._graph.add_edge(a.name, b.name, weight=weight, hallway=hallway)

    def doors(self, start: Room, end: Room) -> list[Hallway] | None:
        """Closed doors on the way, in order; None if there is no way."""
        if not nx.has_path(self._graph, start.name, end.name):
            return None
        route = nx.shortest_path(self._graph, start.name, end.name, weight="weight")
        hallways = [self._graph.edges[a, b]["hallway"] for a, b in pairwise(route)]
        return [hallway for hallway in hallways if not hallway.is_open]

    def metres(self, start: Room, here: tuple[float, float], target: Target) -> float:
        """About how far it is from a point in a room: straight in that room, else by the middles of the rooms."""
        end, there = self._simulation.room_of(target), middle(target)
        if start is end:
            return _metres(here, there)
        if not nx.has_path(self._graph, start.name, end.name):
            return float("inf")
        between = nx.shortest_path_length(self._graph, start.name, end.name, weight="weight")
        return _metres(here, start.centroid) + float(between) + _metres(end.centroid, there)


def middle(target: Target) -> tuple[float, float]:
    """The middle of a room, hallway or place."""
    return float(target.polygon.centroid.x), float(target.polygon.centroid.y)


def _metres(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
