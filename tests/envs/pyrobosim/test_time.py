"""Simulated time that passes without a command: waiting robots, batteries, deadlines, and what others do meanwhile."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml

from erecap.config.suite import Suite
from erecap.envs import make_env
from tests.envs.pyrobosim.playing import make, play
from tests.envs.pyrobosim.test_simulation import corridor

pytestmark = pytest.mark.integration


@pytest.fixture
def house(tmp_path: Path) -> Path:
    file = tmp_path / "house.yaml"
    file.write_text(yaml.safe_dump(corridor()))
    return file


def test_a_robot_waits_for_its_planner(house: Path) -> None:
    env = make(world=house, tasks=["place"], battery_per_waiting_second=0.5)
    _, before = env.reset()
    over, info = env.advance(12.5)
    assert (over, env.seconds, info["skills"], info["failed"]) == (False, 12.5, before["skills"], False)
    assert env.crew.simulation.robots[0].battery_level == 100 - 0.5 * 12.5
    assert "Battery 94 %." in env.step("go to table 1")[0] and env.seconds > 12.5
    env.advance(1000)
    assert env.crew.simulation.robots[0].battery_level == 0
    observation, *_, info = env.step("look")
    assert info["failed"] or "cannot make out" in observation


def test_all_robots_wait_where_commands_name_theirs() -> None:
    env = make(robots=3, tasks=["fetch"], battery_per_waiting_second=1.0)
    _, info = env.reset()
    env.step(next(skill for skill in info["skills"] if skill.startswith("robot 2: go to")))
    busy = env.seconds
    assert env.crew.simulation.clocks.count(0.0) == 2 and busy > 0
    env.advance(4.0)
    assert env.crew.simulation.clocks == [busy + 4.0] * 3
    drained = [100 - robot.battery_level for robot in env.crew.simulation.robots]
    assert drained == pytest.approx([busy + 4, 4, busy + 4])  # the idle ones waited all the while


def test_only_the_robot_whose_turn_it_is_waits() -> None:
    env = make(robots=2, tasks=["fetch"], turns="earliest")
    _, info = env.reset()
    first = env.turn
    env.step(next(skill for skill in info["skills"] if skill.startswith("go to")))
    waiting = env.turn
    assert waiting is not None and waiting != first
    clocks = list(env.crew.simulation.clocks)
    env.advance(0.5)
    assert [new - old for new, old in zip(env.crew.simulation.clocks, clocks, strict=True)] == [
        0.5 if number == waiting else 0.0 for number in range(2)
    ]


def test_an_episode_is_lost_when_its_deadline_passes() -> None:
    easy = make(tasks=["fetch"], seed=5)
    commands = [command for command, _, _ in play(easy, 0, 80)][1:]
    needed = easy.seconds
    for deadline, waits, won in ((needed + 1, 0.5, True), (needed + 1, 2.0, False)):
        env = make(tasks=["fetch"], seed=5, deadline_s=deadline)
        _, info = env.reset(options={"episode": 0})
        assert info["goal"].endswith(f" You have {deadline:g} seconds.") and info["out_of_time"] is False
        assert env.advance(waits)[0] is False
        *_, reward, terminated, truncated, info = [env.step(command) for command in commands][-1]
        assert (bool(reward), terminated, truncated, info["success"]) == (won, won, not won, won)
        assert info["out_of_time"] is not won


def test_waiting_alone_loses_an_episode_and_every_draw_can_be_won() -> None:
    env = make(tasks=["gather"], seed=2, deadline_s=120.0, episodes=4)
    for episode in range(4):
        play(env, episode, 200)
        assert env.success and env.seconds <= 120.0
    env.reset()
    assert env.advance(119.0)[0] is False and env.advance(2.0)[0] is True


def disturbed(**rates: float) -> gym.Env[str, str]:
    values: dict[str, Any] = {"name": "s", "env": "pyrobosim", "options": {"tasks": ["fetch"]}, "episodes": 2}
    suite = Suite.model_validate({**values, "seed": 3, "horizon": 50, "disturbances": rates})
    return make_env(suite, expert=True)


def test_others_close_doors_and_move_objects_while_the_planner_thinks() -> None:
    env = disturbed(moves_per_minute=4.0, closings_per_minute=4.0)
    _, info = env.reset(seed=3, options={"episode": 0})
    simulation = env.unwrapped.crew.simulation  # type: ignore[attr-defined]
    places = {item.name: item.parent.name for item in simulation.world.objects}
    rooms = [skill for skill in info["skills"] if skill.startswith("go to")]
    assert all(door.is_open for door in simulation.world.hallways)
    over, info = env.get_wrapper_attr("advance")(60.0)
    moved = [item.name for item in simulation.world.objects if item.parent.name != places[item.name]]
    closed = [door for door in simulation.world.hallways if not door.is_open]
    assert moved and closed and not over and not info["failed"]
    # What can be done now is known at once: the way through the closed door is not among it.
    assert [skill for skill in info["skills"] if skill.startswith("go to")] != rooms
    *_, info = env.step("look")
    assert set(info["events"]) == {"move", "close"}
    assert env.step("look")[4]["events"].count("close") == 0


def test_ways_are_told_whole_while_others_move_objects() -> None:
    env = disturbed(moves_per_minute=20.0)
    _, info = env.reset(seed=3, options={"episode": 0})
    points, events = list(info["trail"]["robot 1"]), []
    for _ in range(12):
        *_, info = env.step(next(skill for skill in info["skills"] if skill.startswith("go to")))
        points += info["trail"].get("robot 1", [])
        events += info["events"]
    metres = sum(math.dist(*pair) for pair in pairwise(points))
    assert "move" in events and metres == pytest.approx(info["path_length"], abs=0.05) and metres > 10


def test_a_door_that_was_closed_can_be_opened_again() -> None:
    env = disturbed(closings_per_minute=30.0)
    env.reset(seed=3, options={"episode": 0})
    env.get_wrapper_attr("advance")(30.0)
    simulation = env.unwrapped.crew.simulation  # type: ignore[attr-defined]
    robot = simulation.robots[0]
    door = next(door for door in simulation.room_of(robot).hallways if not door.is_open)
    assert not env.unwrapped.crew.perform(0, f"go to {simulation.name(door)}").failure  # type: ignore[attr-defined]
    assert not env.unwrapped.crew.perform(0, f"open {simulation.name(door)}").failure  # type: ignore[attr-defined]
    assert door.is_open and not simulation.shut(door)  # the robot stands in it
