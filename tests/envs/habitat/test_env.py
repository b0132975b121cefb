"""Episodes of the Habitat environment on a small simulator: tasks, failures in words, crashes."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from rich.console import Console

from erecap.config import RunConfig
from erecap.envs.habitat.client import VARIABLE
from erecap.envs.habitat.env import HabitatEnv
from erecap.errors import ConfigError, GameError
from erecap.rollout.run import run
from tests.envs.habitat.playing import interpreter, make, play

pytestmark = pytest.mark.integration
# Greets, and takes its time at everything else.
SLOW = """import sys, time
for line in sys.stdin:
    if "hello" not in line:
        time.sleep(30)
    print('{"bullet": true}', flush=True)
"""


Make = Callable[..., HabitatEnv]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Makes environments on the small simulator, and closes them at the end."""
    envs: list[HabitatEnv] = []

    def one(**options: Any) -> HabitatEnv:
        envs.append(make(tmp_path, **options))
        return envs[-1]

    yield one
    for env in envs:
        env.close()


def begun(made: Make, **options: Any) -> tuple[HabitatEnv, str, dict[str, Any]]:
    env = made(**options)
    observation, info = env.reset(options={"episode": 0})
    return env, observation, info


@pytest.mark.parametrize("expert", ["oracle", "search"])
@pytest.mark.parametrize("kind", ["pointnav", "objectnav", "tour", "chain", "fetch"])
def test_the_expert_wins(made: Make, kind: str, expert: str) -> None:
    env = made(tasks=[kind], expert=expert)
    for episode in range(2):
        shown = play(env, episode)
        info = shown[-1][1]
        assert info["progress"] == 1.0 and info["measures"]["success"] == 1.0 and env.measures.success == 1.0
        assert 0 < info["measures"]["spl"] <= 1.0 and info["measures"]["distance_to_goal"] < 0.5
        assert info["path_length"] > 2.0
        if expert == "oracle":
            assert info["path_length"] == pytest.approx(info["expert_path_length"])
            assert len(shown) - 1 == info["expert_steps"]


def test_goals_of_a_chain_are_told_one_after_the_other(made: Make) -> None:
    env = made(tasks=["chain"], goals=(3, 3))
    shown = play(env, 0)
    goals = [info["goal"] for _, info in shown]
    assert len(dict.fromkeys(goals)) == 3 and all(goal.startswith("Find ") for goal in goals)
    told = [(text, info["goal"]) for text, info in shown if "Your next task is" in text]
    assert len(told) == 2 and all(text.endswith(f"Your next task is: {goal}") for text, goal in told)
    assert sorted({round(info["progress"], 2) for _, info in shown}) == [0.0, 0.33, 0.67, 1.0]


def test_a_tour_names_all_at_once(made: Make) -> None:
    env = made(tasks=["tour"], goals=(3, 3))
    shown = play(env, 0)
    assert len({info["goal"] for _, info in shown}) == 1 and shown[0][1]["goal"].count(", then ") == 2
    assert sum("Done. Next is" in text for text, _ in shown) == 2


def test_a_stop_elsewhere_fails_and_costs_the_measured_success(made: Make) -> None:
    env, _, info = begun(made, tasks=["objectnav"])
    text, reward, terminated, _, info = env.step("stop")
    assert info["failed"] and not terminated and reward == 0.0
    assert text == f"You stop, but {info['failure']}." and info["failure"].startswith("you have not reached the ")
    while not info["success"]:
        *_, info = env.step(info["expert_actions"][0])
    assert env.success and info["measures"]["success"] == 0.0 and info["measures"]["spl"] == 0.0
    assert info["measures"]["soft_spl"] > 0.0


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        ("fly to the moon", "no such command"),
        ("pick up cup", "no such command"),  # nothing is fetched in this task
        ("go to the moon", "you have seen no place the moon"),
        ("explore frontier 99", "there is no frontier 99 now"),
    ],
)
def test_failures_in_words(made: Make, command: str, failure: str) -> None:
    env, _, before = begun(made, tasks=["objectnav"])
    text, _, _, _, info = env.step(command)
    assert info["failed"] and info["failure"] == failure and failure.split()[-1] in text
    assert info["skills"] == before["skills"] and info["path_length"] == before["path_length"] == 0.0


def test_fetching_fails_in_words(made: Make) -> None:
    env, _, info = begun(made, tasks=["fetch"])
    robot = env.robot
    movable = next(thing for thing in robot.house.things if thing.movable)
    assert env.step(f"pick up {movable.name}")[4]["failed"]
    assert "stop" not in info["templates"] and "stop" not in info["skills"]
    assert env.step("stop")[4]["failure"] == "the task is done when the object is at its place"
    while robot.held is None:
        *_, info = env.step(info["expert_actions"][0])
    held = robot.held
    assert info["progress"] == 0.5 and held not in robot.known.things
    assert env.step(f"pick up {held}")[4]["failure"] == f"you hold {held}"
    assert env.step(f"put {held} on the moon")[4]["failure"] == "you have seen no place the moon"
    assert env.step(f"go to {held}")[4]["failed"]
    assert all(not skill.startswith("pick up") for skill in info["skills"])


def test_the_robot_knows_nothing_but_what_it_has_seen(made: Make) -> None:
    env, observation, info = begun(made, tasks=["objectnav"])
    robot = env.robot
    hidden = [thing.name for thing in robot.house.things if thing.name not in robot.known.named]
    assert hidden and robot.explored.seen[robot.explored.floor.cells].mean() < 0.9
    assert not set(hidden) & {name for names in info["entities"].values() for name in names}
    assert env.step(f"go to {hidden[0]}")[4]["failure"] == f"you have seen no place {hidden[0]}"
    assert all(name in observation for name in robot.known.things) and "Unexplored: " in observation


@pytest.mark.parametrize("less", [{"view_range": 1.5}, {"field_of_view": 30}])
def test_who_sees_less_far_or_wide_sees_less(made: Make, less: dict[str, float]) -> None:
    given = {"tasks": ["pointnav"], "expert": "oracle"}
    (wide, _, _), (narrow, _, _) = begun(made, **given), begun(made, **given, **less)
    for env in (wide, narrow):
        env.step("look around")
    assert narrow.robot.start == wide.robot.start
    assert narrow.robot.known.named <= wide.robot.known.named
    assert narrow.robot.explored.seen.sum() < 0.7 * wide.robot.explored.seen.sum()
    assert not (narrow.robot.explored.seen & ~wide.robot.explored.seen).any()


def test_a_thing_that_moved_is_not_found_where_it_was(made: Make) -> None:
    env, _, info = begun(made, tasks=["fetch"])
    robot = env.robot
    while not any(robot.things[name].movable for name in robot.known.things):
        *_, info = env.step(info["expert_actions"][0])
    moved = None
    for draw in range(200):
        moved = env.move_untouched(np.random.default_rng(draw))
        if moved in robot.known.things:
            break
    assert moved in robot.known.things
    text, _, _, _, info = env.step(f"go to {moved}")
    assert info["failed"] and "it is not there any more" in text and moved not in robot.known.things


def test_a_subject_never_shows_less_than_before(made: Make) -> None:
    env, _, _ = begun(made, tasks=["objectnav"])
    _, _, _, _, first = env.step("look around")
    assert first["subject"] == env.robot.room().name
    again = env.step("look around")[4]
    assert again["subject"] == first["subject"]
    name = next(name for name in env.robot.known.things)
    env.robot.shown[name] = {"something that is not there"}
    assert env.step(f"go to {name}")[4]["subject"] == ""


def test_map_and_trail_are_for_reports(made: Make) -> None:
    env, _, info = begun(made, tasks=["objectnav"])
    robot = env.robot
    assert {room["name"] for room in info["map"]["rooms"]} == {room.name for room in robot.house.rooms}
    assert len(info["trail"]["robot"]) == 1
    *_, info = env.step(info["expert_actions"][0])
    *_, info = env.step(next(skill for skill in info["skills"] if skill.startswith("explore ")))
    way = info["trail"]["robot"]
    x, _, z = robot.pose.position
    assert "map" not in info and way[-1] == (round(x, 3), round(z, 3)) and len(way) > 1
    assert all(math.dist(a, b) < 3.0 for a, b in pairwise(way))
    assert env.render() is None


def test_a_simulator_that_crashes_costs_one_episode(made: Make) -> None:
    env = made(tasks=["objectnav"])
    observation, info = env.reset(options={"episode": 1})
    os.kill(env.connection.pid, signal.SIGKILL)
    with pytest.raises(GameError, match=r"habitat-sim's process ended at '[a-z]+': exit code -9") as caught:
        env.step("look around")
    assert "\n" not in str(caught.value)
    with pytest.raises(GameError, match="no scene is open"):
        env.step("look around")
    again, info_again = env.reset(options={"episode": 1})
    assert (again, info_again) == (observation, info)
    assert play(env, 0)[-1][1]["success"]


@pytest.mark.parametrize("request_", ["begin", "go"])
def test_a_crash_at_the_beginning_of_an_episode(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    crash = tmp_path / "crash"
    monkeypatch.setenv("FLAT_CRASH", str(crash))
    env = made()
    for _ in range(2):
        crash.write_text(request_)
        with pytest.raises(GameError, match=f"habitat-sim's process ended at '{request_}': exit code 139"):
            env.reset(options={"episode": 0})
        with pytest.raises(ResetNeeded):  # no episode was begun, in part neither
            env.step("look around")
    assert env.reset(options={"episode": 0})[1]["goal"]


def test_a_run_goes_on_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash"
    crash.write_text("go")
    monkeypatch.setenv("FLAT_CRASH", str(crash))
    monkeypatch.setenv(VARIABLE, str(interpreter(tmp_path)))
    file = tmp_path / "small.yaml"
    options = {"rooms": [3, 3], "objects": 6, "houses_dir": str(tmp_path / "houses")}
    file.write_text(json.dumps({"name": "small", "env": "habitat", "options": options, "episodes": 3, "horizon": 60}))
    config = RunConfig(name="small", suites=[str(file)], modes=["expert"], samples=0)
    played = run(config, tmp_path / "run", console=Console(file=io.StringIO()))
    rows = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text("utf-8").splitlines()]
    assert (played.episodes, played.failed) == (3, 1)
    assert [row["end"] for row in rows] == ["error", "success", "success"]
    assert rows[0]["error"] == "SimulatorEnded: habitat-sim's process ended at 'go': exit code 139"
    assert all(row["measures"]["spl"] > 0 for row in rows[1:]) and rows[0]["measures"] == {}


def test_only_a_crash_while_the_camera_opens_is_laid_to_a_renderer(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash, said = tmp_path / "crash", {}
    monkeypatch.setenv("FLAT_CRASH", str(crash))
    for mode in ("rgb_array", None):
        crash.write_text("open")
        with pytest.raises(GameError) as caught:
            made(render_mode=mode).reset()
        said[mode] = str(caught.value)
    assert said["rgb_array"] == f"{said[None]}; where there is no renderer, set frames: none"
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW)
    with pytest.raises(GameError, match=r"took longer than 0\.5 s at 'open', and was ended$"):
        made(render_mode="rgb_array", python=interpreter(tmp_path, slow), time_limit=0.5).reset()


def test_a_scene_without_a_goal_is_told_from_one_that_the_expert_does_not_win(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erecap.envs.habitat.goals.NEAREST", 1000.0)
    env = made(tasks=["objectnav"])
    wanted = "habitat: the scene of episode 0 has no goal for objectnav; so ended the last of 20 draws"
    with pytest.raises(GameError, match=wanted):
        env.reset(options={"episode": 0})
    assert env.rejected == 20
    monkeypatch.undo()
    monkeypatch.setattr("erecap.envs.habitat.env.EXPERT_LIMIT", 1)
    with pytest.raises(GameError, match=r"habitat: the expert does not win episode 0: 'Find .*; so ended the last"):
        made(tasks=["objectnav"]).reset(options={"episode": 0})


@pytest.mark.parametrize("episode", [-1, 3, 1.5, "0", True])
def test_episodes_that_are_none(made: Make, episode: Any) -> None:
    env = made()
    with pytest.raises(ConfigError, match="episode: got"):
        env.reset(options={"episode": episode})


def test_a_render_mode_that_is_none(made: Make) -> None:
    with pytest.raises(ConfigError, match="render_mode"):
        made(render_mode="human")
