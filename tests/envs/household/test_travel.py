"""Distances on the floor plans' grid."""

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.envs.household.data.rooms import load_room, room_numbers
from erecap.envs.household.experts.travel import FloorPlan, floor_plan, location_point
from erecap.errors import GameError


def test_a_wall_is_walked_around():
    # Two rows of five points, joined only at the right end.
    points = [(x, z) for x in range(5) for z in (0, 2)] + [(4, 1)]
    plan = FloorPlan(points)
    assert plan.distance((0, 0), (0, 2)) == pytest.approx(10 * 0.25)
    assert plan.distance((3, 0), (3, 0)) == 0


def test_a_point_off_the_grid_counts_as_the_nearest_one():
    plan = FloorPlan([(0, 0), (1, 0), (2, 0)])
    assert plan.snap((5, 1)) == (2, 0)
    assert plan.distance((-3, 0), (5, 1)) == pytest.approx(0.5)


def test_parts_are_joined_by_the_shortest_straight_line():
    plan = FloorPlan([(0, 0), (1, 0), (4, 4), (4, 5)])
    assert nx.is_connected(plan.graph)
    assert plan.distance((0, 0), (4, 5)) == pytest.approx(0.25 * (1 + 5 + 1))


def test_no_points_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        FloorPlan([])


@pytest.mark.parametrize(
    "name, point",
    [
        ("loc_bar__minus_4_bar_5_bar_2_bar_30", (-4, 5)),
        ("loc_bar_0_bar__minus_12_bar_0_bar__minus_30", (0, -12)),
    ],
)
def test_locations_name_their_grid_point(name, point):
    assert location_point(name) == point


def test_a_location_without_a_grid_point_is_an_error():
    with pytest.raises(GameError, match="'kitchen'"):
        location_point("kitchen")


def test_an_unknown_room_is_an_error():
    with pytest.raises(GameError, match="no floor plan 999"):
        floor_plan(999)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_distance_is_a_metric_on_real_floor_plans(data):
    number = data.draw(st.sampled_from([1, 29, 201, 205, 305, 408]))
    plan, points = floor_plan(number), load_room(number).points
    a, b, c = (data.draw(st.sampled_from(points)) for _ in range(3))
    assert plan.distance(a, b) == pytest.approx(plan.distance(b, a))
    assert plan.distance(a, c) <= plan.distance(a, b) + plan.distance(b, c) + 1e-9
    straight = 0.25 * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
    assert plan.distance(a, b) >= straight - 1e-9


def test_every_room_has_a_connected_plan_and_spots_of_its_own():
    numbers = [*room_numbers("train"), *room_numbers("unseen")]
    assert len(numbers) == len(set(numbers)) == 120
    assert room_numbers("seen") == room_numbers("train")
    for number in numbers:
        room, plan = load_room(number), floor_plan(number)
        assert nx.is_connected(plan.graph)
        spots = [receptacle.spot for receptacle in room.receptacles]
        assert len(set(spots)) == len(spots) > 0
        assert all((spot.x, spot.z) in plan.graph for spot in spots)


def test_unseen_rooms_are_the_first_six_of_each_kind():
    unseen = room_numbers("unseen")
    assert unseen == tuple(base + i for base in (0, 200, 300, 400) for i in range(1, 7))
