"""Seen floor and frontiers on a floor of two rooms with one gap between them."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from erecap.envs.habitat.exploration import Explored, Floor
from erecap.envs.habitat.maps import rectangles

GAP = range(28, 34)


def two_rooms() -> Floor:
    """6 m x 12 m of floor at y = 0.1 with a wall at x = 6 m, open from z = 2.8 m to 3.3 m."""
    cells = np.ones((60, 120), dtype=bool)
    cells[:, 60] = False
    cells[GAP, 60] = True
    return Floor(cells, (0.0, 0.0), 0.1, 0.1)


def all_round(x: float, z: float, metres: float = 9.0) -> list[dict]:
    """Glimpses in all four directions; nothing but the wall between the rooms blocks the view."""
    glimpses = []
    for yaw in (0.0, 90.0, 180.0, -90.0):
        scan = []
        for degree in range(-45, 46):
            angle = np.radians(yaw + degree)
            far, step = 0.0, 0.05
            while far < metres:
                at_x, at_z = x - (far + step) * np.sin(angle), z - (far + step) * np.cos(angle)
                if abs(at_x - 6.0) < 0.05 and not 2.8 <= at_z <= 3.3:
                    break
                far += step
            scan.append(far)
        glimpses.append({"position": [x, 0.1, z], "yaw": yaw, "first": -45.0, "scan": scan, "seen": []})
    return glimpses


def test_a_look_ahead_leaves_the_rest_unseen() -> None:
    explored = Explored(two_rooms())
    explored.add([{"position": [1.0, 0.1, 3.0], "yaw": -90.0, "first": -45.0, "scan": [2.0] * 91, "seen": []}])
    assert explored.has_seen(2.5, 3.0) and not explored.has_seen(4.0, 3.0) and not explored.has_seen(1.0, 1.0)
    assert not explored.has_seen(-50.0, 3.0)
    assert explored.frontiers and all(
        explored.floor.cells[explored.floor.cell(f.point[0], f.point[2])] for f in explored.frontiers
    )
    assert {f.point[1] for f in explored.frontiers} == {0.1}


def test_the_frontier_of_a_seen_room_is_its_door() -> None:
    explored = Explored(two_rooms())
    explored.add(all_round(1.0, 1.0))
    explored.add(all_round(5.0, 5.0))
    doors = [f for f in explored.frontiers if 5.5 < f.point[0] < 12.0]
    assert doors and len(doors) == len(explored.frontiers)
    for door in doors:
        assert door.beyond[0] > 5.9


def test_all_is_explored_in_the_end_and_names_stay() -> None:
    explored = Explored(two_rooms())
    explored.add(all_round(3.0, 3.0))
    before = {f.name: f.point for f in explored.frontiers}
    assert before
    explored.add([])
    assert {f.name: f.point for f in explored.frontiers} == before
    for x, z in ((8.0, 3.0), (7.0, 0.5), (7.0, 5.5), (11.0, 1.0), (11.0, 5.0), (1.0, 1.0), (1.0, 5.0)):
        explored.add(all_round(x, z))
    assert explored.seen[explored.floor.cells].mean() > 0.99 and explored.frontiers == []
    assert explored.nearest_seen(9.0, 3.0, (6.5, 0.0, 12.0, 6.0)) == pytest.approx((9.0, 0.1, 3.0))
    assert explored.nearest_seen(30.0, 30.0, (20.0, 20.0, 40.0, 40.0)) is None


def test_a_frontier_that_leads_nowhere_is_given_up() -> None:
    explored = Explored(two_rooms())
    explored.add(all_round(1.0, 3.0))
    first = explored.frontiers[0]
    explored.give_up(first.name)
    assert all(f.point != first.point for f in explored.frontiers)


def test_the_floor_of_an_answer_and_its_rectangles() -> None:
    floor = two_rooms()
    packed = base64.b64encode(np.packbits(floor.cells.astype(np.uint8))).decode()
    answer = {"shape": [60, 120], "cells": packed, "corner": [0.0, 0.0], "metres": 0.1}
    again = Floor.of_answer(answer, 0.1)
    assert (
        (again.cells == floor.cells).all()
        and again.cell(1.02, 2.98) == (30, 10)
        and again.point((30, 10)) == (1.0, 0.1, 3.0)
    )
    found = rectangles(floor)
    assert sum((x1 - x0) * (z1 - z0) for x0, z0, x1, z1 in found) == pytest.approx(floor.cells.sum() * 0.01)
    assert len(found) == 5  # above, beside and below the gap
