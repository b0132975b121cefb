"""Scenes of others: datasets, annotations, and episode files of habitat-lab."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from erecap.envs.habitat.episode_files import EpisodeFile
from erecap.envs.habitat.houses.house import SIDECAR, Thing
from erecap.envs.habitat.options import HabitatOptions
from erecap.envs.habitat.scenes import GeneratedHouses, GivenScene, annotated_house, find_dataset, opening_of
from erecap.errors import ConfigError, GameError

POINTNAV: dict[str, Any] = {
    "episodes": [
        {
            "episode_id": "0",
            "scene_id": "data/scene_datasets/test/room.glb",
            "start_position": [1.0, 0.1, -2.0],
            "start_rotation": [0.0, 0.7071, 0.0, 0.7071],
            "info": {"geodesic_distance": 4.5},
            "goals": [{"position": [3.0, 0.1, 2.0], "radius": None}],
        }
    ]
}
VIEW = {"agent_state": {"position": [2.0, 0.1, 1.0], "rotation": [0, 0, 0, 1]}, "iou": 0.4}
OBJECTNAV: dict[str, Any] = {
    "goals_by_category": {
        "room.glb_arm_chair": [
            {"position": [2.0, 0.5, 2.0], "object_id": 7, "object_name": "arm_chair_7", "view_points": [VIEW]},
            {"position": [5.0, 0.5, 2.0], "object_id": 9, "object_name": "arm_chair_9", "view_points": []},
        ],
        "room.glb_tv": [{"position": [4.0, 1.0, 0.0], "object_id": 3, "object_name": "tv_3"}],
        "other.glb_bed": [{"position": [4.0, 1.0, 0.0], "object_id": 3, "object_name": "bed_3"}],
    },
    "episodes": [{**POINTNAV["episodes"][0], "goals": [], "object_category": "arm_chair"}],
}


def episode_file(folder: Path, content: Any, name: str = "val.json.gz") -> EpisodeFile:
    path = folder / name
    raw = json.dumps(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    (folder / "room.glb").write_bytes(b"")
    return EpisodeFile(HabitatOptions(episodes_file=path, scenes_dir=folder, houses_dir=folder), 1)


@pytest.mark.parametrize("name", ["val.json", "val.json.gz"])
def test_pointnav_episodes(tmp_path: Path, name: str) -> None:
    setting = episode_file(tmp_path, POINTNAV, name).setting(7, 0, 0)
    assert setting.opening["scene"] == str(tmp_path / "room.glb") and setting.opening["dataset"] is None
    assert setting.start == (1.0, 0.1, -2.0) and setting.rotation == (0.0, 0.7071, 0.0, 0.7071)
    assert [goal.point for goal in setting.goals] == [(3.0, 0.1, 2.0)] and setting.extra == ()


def test_objectnav_episodes(tmp_path: Path) -> None:
    setting = episode_file(tmp_path, OBJECTNAV).setting(7, 0, 0)
    (goal,) = setting.goals
    assert goal.sentence == "Find an arm chair." and goal.targets == ("arm_chair_7", "arm_chair_9")
    assert goal.views == ((2.0, 0.1, 1.0),)
    assert [thing.name for thing in setting.extra] == ["arm chair 1", "arm chair 2", "tv"]
    assert [thing.semantic_id for thing in setting.extra] == [7, 9, 3]


def test_episodes_in_a_folder_of_contents(tmp_path: Path) -> None:
    episode_file(tmp_path / "content", OBJECTNAV, "room.json.gz")
    (tmp_path / "val.json").write_text(json.dumps({"episodes": []}))
    (tmp_path / "room.glb").write_bytes(b"")
    options = HabitatOptions(episodes_file=tmp_path / "val.json", houses_dir=tmp_path)
    assert EpisodeFile(options, 1).setting(7, 0, 0).goals[0].targets == ("arm_chair_7", "arm_chair_9")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"episodes": 3}', b"\xff\xfe", b'{"goals": []}', b"[" * 5000]
)
def test_what_is_no_episode_file(tmp_path: Path, content: bytes) -> None:
    for name, raw in (("a.json", content), ("a.json.gz", gzip.compress(content)), ("b.json.gz", content)):
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(ConfigError, match="is no episode file of habitat-lab") as caught:
            EpisodeFile(HabitatOptions(episodes_file=path, houses_dir=tmp_path), 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is no episode file"):
        EpisodeFile(HabitatOptions(episodes_file=tmp_path / "missing.json"), 1)


def test_more_episodes_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(POINTNAV))
    with pytest.raises(ConfigError, match=r"episodes: got 2; .* has 1"):
        EpisodeFile(HabitatOptions(episodes_file=path, houses_dir=tmp_path), 2)


@pytest.mark.parametrize("lacking", ["scene_id", "start_position", "start_rotation", "goals"])
def test_a_damaged_episode_costs_itself(tmp_path: Path, lacking: str) -> None:
    damaged = {key: value for key, value in POINTNAV["episodes"][0].items() if key != lacking}
    found = episode_file(tmp_path, {"episodes": [damaged]})
    with pytest.raises(GameError, match="episode 0 is damaged") as caught:
        found.setting(7, 0, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["chair_7", "", None, -1, 1.5])
def test_a_goal_whose_id_is_no_number_is_damaged(tmp_path: Path, number: Any) -> None:
    goals = {"room.glb_arm_chair": [{"position": [2.0, 0.5, 2.0], "object_id": number, "object_name": "arm_chair_7"}]}
    found = episode_file(tmp_path, {**OBJECTNAV, "goals_by_category": goals})
    with pytest.raises(
        GameError, match=r"episode 0 is damaged: ValueError: object_id: got .*; allowed: a whole number"
    ):
        found.setting(7, 0, 0)


@pytest.mark.parametrize("changes", [{"goals": []}, {"object_category": ""}])
def test_an_episode_without_goals_is_damaged(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = episode_file(tmp_path, {"episodes": [{**POINTNAV["episodes"][0], **changes}]})
    with pytest.raises(GameError, match="episode 0 is damaged"):
        found.setting(7, 0, 0)


def test_a_missing_scene_of_an_episode(tmp_path: Path) -> None:
    found = episode_file(tmp_path, POINTNAV)
    (tmp_path / "room.glb").unlink()
    with pytest.raises(GameError, match=r"there is no scene data/scene_datasets/test/room\.glb in .*set scenes_dir"):
        found.setting(7, 0, 0)


def test_datasets(tmp_path: Path) -> None:
    assert find_dataset(None) is None
    with pytest.raises(ConfigError, match="scene_dataset: got 0 of them"):
        find_dataset(tmp_path)
    one = tmp_path / "a.scene_dataset_config.json"
    one.write_text("{}")
    assert find_dataset(tmp_path) == find_dataset(one) == one
    (tmp_path / "b.scene_dataset_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="scene_dataset: got 2 of them"):
        find_dataset(tmp_path)
    with pytest.raises(ConfigError, match="scene_dataset: got no file"):
        find_dataset(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=r"options\.scene: there is no file nowhere\.glb"):
        GivenScene(HabitatOptions(scene="nowhere.glb"))


def test_nothing_is_fetched_in_a_scene_of_others(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(b"")
    options = HabitatOptions(scene=str(tmp_path / "a.glb"), tasks=("objectnav", "fetch"), houses_dir=tmp_path)
    with pytest.raises(
        ConfigError, match=r"options\.tasks: nothing in .*a\.glb can be picked up; leave out fetch"
    ) as caught:
        GivenScene(options)
    assert "\n" not in str(caught.value)


def test_generated_houses_are_written_once_and_can_be_given(tmp_path: Path) -> None:
    houses = GeneratedHouses(HabitatOptions(rooms=(3, 3), objects=6, houses_dir=tmp_path))
    first, again, other = houses.setting(7, 0, 0), houses.setting(7, 0, 1), houses.setting(8, 0, 0)
    assert first == again and first.opening != other.opening
    dataset = Path(first.opening["dataset"])
    assert (dataset.parent / SIDECAR).is_file() and dataset.is_file()
    before = dataset.stat().st_mtime_ns
    assert houses.setting(7, 0, 0) == first and dataset.stat().st_mtime_ns == before
    own = HabitatOptions(scene="house", scene_dataset=dataset.parent, tasks=("fetch",))
    given = GivenScene(own).setting(1, 0, 0)
    assert given == first


@pytest.mark.parametrize("changed", ["a.glb", "a.scene_dataset_config.json"])
def test_a_changed_scene_has_another_navmesh(tmp_path: Path, changed: str) -> None:
    dataset = tmp_path / "a.scene_dataset_config.json"
    for path in (dataset, tmp_path / "a.glb"):
        path.write_text("")
    scene = "a" if changed == dataset.name else str(tmp_path / "a.glb")
    before = opening_of(scene, dataset, tmp_path / "navmeshes")
    assert opening_of(scene, dataset, tmp_path / "navmeshes") == before
    os.utime(tmp_path / changed, (1.0, 1.0))
    after = opening_of(scene, dataset, tmp_path / "navmeshes")
    assert after["navmesh"] != before["navmesh"] and after == {**before, "navmesh": after["navmesh"]}


def test_what_a_scene_says_of_itself() -> None:
    answer = {
        "regions": [
            {"name": "living_room", "low": [0, 0, 0], "high": [4, 3, 4]},
            {"name": "bedroom", "low": [4, 0, 0], "high": [8, 3, 4]},
            {"name": "bedroom", "low": [8, 0, 0], "high": [12, 3, 4]},
        ],
        "things": [
            {"id": "1", "category": "wall", "centre": [0, 1, 0], "size": [4, 3, 0.1], "semantic_id": 1},
            {"id": "2", "category": "table", "centre": [2, 0.5, 2], "size": [1, 1, 1], "semantic_id": 2},
            {"id": "3", "category": "chair", "centre": [5, 0.5, 2], "size": [1, 1, 1], "semantic_id": 3},
            {"id": "4", "category": "chair", "centre": [9, 0.5, 2], "size": [1, 1, 1], "semantic_id": 4},
            {"id": "5", "category": "objects", "centre": [9, 0.5, 2], "size": [1, 1, 1], "semantic_id": 5},
        ],
    }
    more = [Thing(id=name, name=name, category=name, colour="", centre=(1, 1, 1), size=(1, 1, 1), room="",
                  receptacle=False, movable=False) for name in ("chair", "tv")]  # fmt: skip
    house = annotated_house(answer, more)
    assert [room.name for room in house.rooms] == ["living room", "bedroom 1", "bedroom 2"]
    named = {thing.name: (thing.room, thing.receptacle, thing.movable) for thing in house.things}
    assert named == {
        "table": ("living room", False, False),
        "chair 1": ("bedroom 1", False, False),
        "chair 2": ("bedroom 2", False, False),
        "tv": ("", False, False),
    }
