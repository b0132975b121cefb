"""Robots in simulated time: ways, clocks, batteries, chance, and nothing of the process left changed."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from erecap.envs.pyrobosim.simulation import CHARGE_SECONDS, SECONDS, Simulation
from erecap.envs.pyrobosim.worlds.generate import DATA
from erecap.errors import GameError

pytestmark = pytest.mark.integration


def corridor(**robot: Any) -> dict[str, Any]:
    """Two rooms of 4 m whose middles are 6 m apart, a robot in the middle of the first, a table before it."""
    room = {"footprint": {"type": "box", "dims": [4, 4]}, "wall_width": 0.2}
    return {
        "params": {"name": "world", "object_radius": 0.01},
        "metadata": {"locations": [str(DATA / "furniture.yaml")], "objects": [str(DATA / "objects.yaml")]},
        "rooms": [
            {"name": "a", **room, "pose": {"position": {"x": 0, "y": 0}}},
            {"name": "b", **room, "pose": {"position": {"x": 6, "y": 0}}},
        ],
        "hallways": [{"room_start": "a", "room_end": "b", "width": 1.0}],
        "locations": [
            # Its front is at y = 1.7 - 0.45.
            {"name": "table_1", "category": "table", "parent": "a", "is_locked": True,
             "pose": {"position": {"x": 0, "y": 1.7}}},
            {"name": "chest_1", "category": "chest", "parent": "b", "is_open": False,
             "pose": {"position": {"x": 6, "y": 1.7}}},
            {"name": "charger_1", "category": "charger", "parent": "b", "is_charger": True, "is_locked": True,
             "pose": {"position": {"x": 7.5, "y": 1.7}}},
        ],
        "objects": [{"name": "cup_1", "category": "cup", "parent": "table_1_top"}],
        "robots": [
            {"name": "robot_1", "radius": 0.1, "location": "a", "pose": {"position": {"x": 0, "y": 0}},
             "path_planner": {"type": "world_graph"},
             "path_executor": {"type": "constant_velocity", "linear_velocity": 0.5}, **robot},
        ],
    }  # fmt: skip


def test_a_way_is_as_long_as_it_is() -> None:
    simulation = Simulation(corridor(), None, seed=[0])
    robot, names = simulation.robots[0], simulation.names
    assert simulation.navigate(robot, names["table 1"]) == ""
    assert simulation.metres == pytest.approx(1.25)
    assert simulation.clocks == [pytest.approx(2.5)]  # at half a metre a second
    assert simulation.place_of(robot) is names["table 1"] and simulation.name(names["table 1"]) == "table 1"
    assert simulation.pick(robot, names["cup 1"]) == ""
    assert simulation.clocks == [pytest.approx(2.5 + SECONDS["pick"])]
    assert simulation.navigate(robot, names["b"]) == ""
    # At least straight through the hallway, at most by the middle of the first room.
    assert 1.25 + np.hypot(6, 1.25) <= simulation.metres <= 2 * 1.25 + 6 + 1e-6
    assert simulation.room_of(robot) is names["b"] is simulation.room_of(names["cup 1"])


def test_nothing_waits_and_no_thread_is_left() -> None:
    world = corridor(
        sensors={"lidar": {"type": "lidar", "update_rate_s": 0.1, "angle_units": "degrees", "min_angle": -90.0,
                           "max_angle": 90.0, "angular_resolution": 5.0, "max_range_m": 2.0}},
        start_sensor_threads=True,
        action_execution_options={"pick": {"delay": 1000.0}},
    )  # fmt: skip
    threads = threading.active_count()
    began = time.perf_counter()
    simulation = Simulation(world, None, seed=[0])
    robot = simulation.robots[0]
    simulation.navigate(robot, simulation.names["table 1"])
    assert simulation.pick(robot, simulation.names["cup 1"]) == ""
    assert threading.active_count() == threads
    assert simulation.seconds == pytest.approx(2.5 + SECONDS["pick"] + 1000.0)
    assert time.perf_counter() - began < 100  # far below the thousand seconds of the file's delay


def test_an_empty_battery_stops_the_robot_on_its_way() -> None:
    simulation = Simulation(corridor(), None, seed=[0], battery_per_metre=50.0)
    robot = simulation.robots[0]
    assert simulation.navigate(robot, simulation.names["b"]) == "the battery is empty"
    assert simulation.metres == pytest.approx(2.0) and robot.get_pose().x == pytest.approx(2.0)
    assert simulation.clocks == [pytest.approx(4.0)] and robot.battery_level == 0.0
    before = simulation.metres
    assert simulation.navigate(robot, simulation.names["a"]) == "the battery is empty"
    assert simulation.charge(robot, simulation.names["charger 1"]) == "the battery is empty"
    assert simulation.open(robot) == "the battery is empty" and simulation.metres == before


def test_charging_takes_the_time_that_is_missing() -> None:
    simulation = Simulation(corridor(), None, seed=[0], battery_per_metre=5.0)
    robot = simulation.robots[0]
    assert simulation.charge(robot, simulation.names["charger 1"]) == ""
    assert robot.battery_level == 100.0
    spent = 5.0 * simulation.metres
    assert simulation.clocks == [pytest.approx(simulation.metres / 0.5 + CHARGE_SECONDS * spent)]


def test_closed_doors_stop_robots_until_they_are_opened() -> None:
    world = corridor()
    world["hallways"][0]["is_open"] = False
    simulation = Simulation(world, None, seed=[0])
    robot, names = simulation.robots[0], simulation.names
    assert simulation.navigate(robot, names["b"]) == "there is no open way" and simulation.metres == 0
    assert simulation.reachable(names["a"]) == {"a"}
    assert simulation.navigate(robot, names["hall a b"]) == "" and simulation.open(robot) == ""
    assert simulation.reachable(names["a"]) == {"a", "b"}
    assert simulation.navigate(robot, names["b"]) == "" and simulation.close(robot) != ""


def test_chance_is_the_seeds_alone() -> None:
    def failed(seed: int, looks: int) -> list[str]:
        simulation = Simulation(corridor(), None, seed=[seed], failures=0.5)
        robot = simulation.robots[0]
        while simulation.navigate(robot, simulation.names["table 1"]):
            pass
        for _ in range(looks):
            simulation.detect(robot)
        return [simulation.open(robot) for _ in range(20)]  # a table that is open: "" or the attempt failed

    assert failed(1, looks=0) == failed(1, looks=5) != failed(2, looks=0)
    assert set(failed(1, looks=0)) == {"", "the attempt failed"}


def test_numpys_own_stream_is_left_alone() -> None:
    np.random.seed(5)
    wanted = np.random.random(3).tolist()
    np.random.seed(5)
    first = np.random.random()
    simulation = Simulation(corridor(), None, seed=[0])
    robot = simulation.robots[0]
    simulation.navigate(robot, simulation.names["table 1"])
    simulation.pick(robot, simulation.names["cup 1"])
    assert simulation.place(robot) == ""
    assert [first, *np.random.random(2).tolist()] == wanted


def test_an_object_is_taken_after_it_was_brought() -> None:
    world = corridor()
    world["robots"].append({**world["robots"][0], "name": "robot_2", "pose": {"position": {"x": 0.5, "y": -1}}})
    simulation = Simulation(world, None, seed=[0])
    (one, two), names = simulation.robots, simulation.names
    for robot in (one, two):
        assert simulation.navigate(robot, names["table 1"]) == ""
    assert simulation.pick(one, names["cup 1"]) == "" and simulation.place(one) == ""
    simulation.wait(one)
    brought = 2.5 + SECONDS["pick"] + SECONDS["place"]
    assert simulation.clocks[0] == pytest.approx(brought + SECONDS["wait"])
    assert simulation.pick(two, names["cup 1"]) == ""
    assert simulation.clocks[1] == pytest.approx(brought + SECONDS["pick"])


def test_a_planner_that_does_not_exist() -> None:
    with pytest.raises(GameError, match="path_planner of robot_1: got 'dijkstra'; allowed: astar") as caught:
        Simulation(corridor(path_planner={"type": "dijkstra"}), None, seed=[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("planner", "problem"),
    [
        ({"type": ["astar"]}, r"got \['astar'\]; allowed: astar"),
        ({"type": "astar", "grid_resolution": 0, "grid_inflation_radius": 0.1}, "ZeroDivisionError: "),
    ],
)
def test_a_planner_that_cannot_be_made(planner: dict[str, Any], problem: str) -> None:
    with pytest.raises(GameError, match=f"path_planner of robot_1: {problem}"):
        Simulation(corridor(path_planner=planner), None, seed=[0])


@pytest.mark.parametrize(
    ("part", "change", "problem"),
    [
        ("hallways", {"room_end": "a"}, "IndexError: "),
        ("locations", {"parent": "cellar"}, "AssertionError: ."),
        ("rooms", {"footprint": {"type": "box", "dims": [float("nan"), 4]}}, "GEOSException: "),
    ],
)
def test_worlds_that_pyrobosim_fails_at_are_refused(part: str, change: dict[str, Any], problem: str) -> None:
    world = corridor()
    world[part][0] |= change
    with pytest.raises(GameError, match=f"pyrobosim cannot load the world: {problem}") as caught:
        Simulation(world, None, seed=[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "name"),
    [("objects", "cup\n1"), ("objects", "_cup"), ("locations", "t" * 120), ("robots", "robot: 1")],
)
def test_names_that_no_command_can_hold_are_refused(part: str, name: str) -> None:
    world = corridor()
    if part == "locations":
        world["objects"][0]["parent"] = f"{name}_top"
    world[part][0]["name"] = name
    with pytest.raises(GameError, match="which no command can hold; allowed: at most 100 characters") as caught:
        Simulation(world, None, seed=[0])
    assert "\n" not in str(caught.value)


def test_two_things_of_one_name_are_refused() -> None:
    world = corridor()
    world["objects"].append({"name": "cup 1", "category": "cup", "parent": "table_1_top"})
    with pytest.raises(GameError, match="two entities that are called 'cup 1'"):
        Simulation(world, None, seed=[0])
