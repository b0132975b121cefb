"""The Habitat environment on habitat-sim, where an interpreter has it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erecap.envs.habitat.client import ask_version
from erecap.envs.habitat.env import HabitatEnv
from erecap.envs.habitat.houses.house import read_house
from erecap.envs.habitat.options import HabitatOptions
from erecap.errors import GameError
from tests.envs.habitat.playing import play
from tests.envs.habitat.simulator import need_habitat

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    need_habitat()
    yield tmp_path_factory.mktemp("habitat")


def make(folder: Path, episodes: int = 3, render_mode: str | None = None, **options: Any) -> HabitatEnv:
    given = HabitatOptions(**{"houses_dir": folder / "houses", "expert": "search", **options})
    return HabitatEnv(given, seed=11, episodes=episodes, expert=True, render_mode=render_mode)


def written(folder: Path) -> Path:
    """The folder of a generated house."""
    env = make(folder)
    env.reset(options={"episode": 0})
    env.close()
    return next((folder / "houses" / "houses").iterdir())


def test_versions(folder: Path) -> None:
    said = ask_version(need_habitat())
    assert said["bullet"] is True and said["habitat_sim"] and said["python"].startswith("3.")


def test_fifty_seeds_load_differ_and_reproduce(folder: Path) -> None:
    env, other = make(folder, episodes=50), make(folder, episodes=50)
    begun = [env.reset(options={"episode": episode}) for episode in range(50)]
    assert len({observation for observation, _ in begun}) == 50
    assert len({info["goal"] for _, info in begun}) > 25
    for episode in reversed(range(50)):
        assert other.reset(options={"episode": episode}) == begun[episode]
    env.close()
    other.close()


@pytest.mark.parametrize("kind", ["pointnav", "objectnav", "tour", "chain", "fetch"])
def test_the_expert_wins(folder: Path, kind: str) -> None:
    env = make(folder, tasks=[kind])
    for episode in range(3):
        info = play(env, episode)[-1][1]
        assert info["measures"]["success"] == 1.0 and info["measures"]["spl"] > 0.1
    env.close()


def test_a_killed_simulator_costs_one_episode(folder: Path) -> None:
    env = make(folder)
    begun = env.reset(options={"episode": 1})
    os.kill(env.connection.pid, signal.SIGSEGV)
    with pytest.raises(GameError, match=r"habitat-sim's process ended at 'look': "):
        env.step("look around")
    assert env.reset(options={"episode": 1}) == begun
    env.close()


def test_a_scene_that_is_no_scene_is_one_line(folder: Path) -> None:
    path = folder / "damaged.glb"
    path.write_bytes(b"no glb at all")
    env = make(folder, scene=str(path), tasks=["pointnav"])
    with pytest.raises(GameError, match="habitat-sim") as caught:
        env.reset(options={"episode": 0})
    assert "\n" not in str(caught.value)
    env.close()
    env = make(folder, scene="nothing", scene_dataset=written(folder))
    with pytest.raises(GameError, match="habitat-sim") as caught:
        env.reset(options={"episode": 0})
    assert "\n" not in str(caught.value)
    env.close()


def pointnav_file(folder: Path, start: list[float], goal: list[float]) -> Path:
    path = folder / "pointnav.json"
    episode = {
        "episode_id": "0", "scene_id": "house", "start_position": start, "start_rotation": [0.0, 0.0, 0.0, 1.0],
        "goals": [{"position": goal, "radius": 0.2}],
    }  # fmt: skip
    path.write_text(json.dumps({"episodes": [episode]}))
    return path


def free_points(folder: Path, dataset: Path) -> list[list[float]]:
    env = make(folder, scene="house", scene_dataset=dataset, tasks=["pointnav"])
    env.reset(options={"episode": 0})
    points: list[list[float]] = env.robot.ask("points", count=30, seed=5)["points"]
    env.close()
    return points


def test_a_pointnav_file_in_a_scene_dataset(folder: Path) -> None:
    dataset = written(folder)
    points = free_points(folder, dataset)
    far = max(points, key=lambda point: np.hypot(point[0] - points[0][0], point[2] - points[0][2]))
    file = pointnav_file(folder, points[0], far)
    env = make(folder, episodes=1, episodes_file=file, scene_dataset=dataset)
    shown = play(env, 0)
    assert shown[0][1]["goal"].startswith("Go to the goal, ") and shown[-1][1]["measures"]["distance_to_goal"] < 0.2
    assert env.robot.pose.metres(tuple(far)) < 0.25
    assert env.robot.start.yaw == 0.0
    env.close()


def test_an_objectnav_file_in_a_scene_dataset(folder: Path) -> None:
    dataset = written(folder)
    house = read_house(dataset)
    points = free_points(folder, dataset)
    target = next(thing for thing in house.things if not thing.movable and thing.category != "rug")
    goals = {f"house_{target.category}": [{"position": list(target.centre), "object_id": 1, "object_name": target.id}]}
    episode = {"scene_id": "house", "start_position": points[0], "start_rotation": [0, 0, 0, 1], "goals": [],
               "object_category": target.category}  # fmt: skip
    file = folder / "objectnav.json"
    file.write_text(json.dumps({"goals_by_category": goals, "episodes": [episode]}))
    env = make(folder, episodes=1, episodes_file=file, scene_dataset=dataset)
    info = play(env, 0)[-1][1]
    assert info["measures"]["success"] == 1.0
    x, _, z = env.robot.pose.position
    gaps = (abs(x - target.centre[0]) - target.size[0] / 2, abs(z - target.centre[2]) - target.size[2] / 2)
    assert max(gaps) < 1.5
    env.close()


def test_goals_and_starts_that_cannot_be_reached_cost_their_episode(folder: Path) -> None:
    dataset = written(folder)
    points = free_points(folder, dataset)
    for start, goal, why in (
        (points[0], [500.0, 0.0, 500.0], "the expert does not win episode 0"),
        ([500.0, 0.0, 500.0], points[0], "is not on navigable floor"),
    ):
        env = make(folder, episodes=1, episodes_file=pointnav_file(folder, start, goal), scene_dataset=dataset)
        with pytest.raises(GameError, match=why) as caught:
            env.reset(options={"episode": 0})
        assert "\n" not in str(caught.value)
        env.close()


@pytest.mark.parametrize("sight", ["navmesh", "semantic"])
def test_other_ways_to_see(folder: Path, sight: str) -> None:
    if sight == "semantic":
        needs_renderer(folder)
    env = make(folder, sight=sight)
    assert play(env, 0)[-1][1]["success"]
    env.close()


def needs_renderer(folder: Path) -> None:
    env = make(folder, render_mode="rgb_array")
    try:
        env.reset(options={"episode": 0})
    except GameError as error:
        if "where there is no renderer" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        env.close()


def test_frames(folder: Path) -> None:
    needs_renderer(folder)
    env = make(folder, render_mode="rgb_array")
    _, info = env.reset(options={"episode": 0})
    before = env.render()
    assert before.shape == (240, 320, 3) and before.dtype == np.uint8 and before.std() > 5.0
    while info["path_length"] < 1.0:
        *_, info = env.step(info["expert_actions"][0])
    assert not np.array_equal(env.render(), before)
    _, again = env.reset(options={"episode": 1})
    assert again["goal"] and not np.array_equal(env.render(), before)
    env.close()
    blind = make(folder, render_mode="rgb_array", frames="none")
    blind.reset(options={"episode": 0})
    assert blind.render() is None
    blind.close()
