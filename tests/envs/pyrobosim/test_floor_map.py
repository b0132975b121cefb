"""The map of a world, and the ways of its robots."""

from __future__ import annotations

import math

import pytest

from erecap.report.rows import SampleMap
from tests.envs.pyrobosim.playing import make, play

pytestmark = pytest.mark.integration


def test_the_map_shows_the_world() -> None:
    env = make(robots=2, closed_doors=1.0)
    _, info = env.reset(options={"episode": 0})
    found, world = SampleMap.model_validate(info["map"]), env.crew.simulation.world
    assert {room.name for room in found.rooms if room.name} == {room.name.replace("_", " ") for room in world.rooms}
    assert len(found.rooms) == len(world.rooms) + len(world.hallways)
    assert len(found.doors) == sum(not hallway.is_open for hallway in world.hallways) > 0
    assert len(found.furniture) == len(world.locations) and len(found.things) == len(world.objects)
    for door in found.doors:
        assert not door.open and math.dist(*door.ends) == pytest.approx(0.8)
    assert all(part.colour.startswith("#") for part in (*found.furniture, *found.things))


def test_trails_join_and_are_as_long_as_the_way() -> None:
    env = make(robots=1)
    shown = play(env, 0, 60)
    last = shown[0][2]["trail"]["robot 1"][-1]
    metres = 0.0
    for _, _, info in shown[1:]:
        assert "map" not in info
        for point in info["trail"].get("robot 1", ()):
            metres += math.dist(last, point)
            last = point
    pose = env.crew.simulation.robots[0].get_pose()
    assert last == pytest.approx((pose.x, -pose.y), abs=1e-3)  # a map's y grows downwards
    assert metres == pytest.approx(env.crew.simulation.metres, abs=0.05) and metres > 1


def test_only_who_moved_has_a_trail() -> None:
    env = make(robots=3)
    _, info = env.reset(options={"episode": 0})
    assert {name: len(points) for name, points in info["trail"].items()} == {f"robot {n}": 1 for n in (1, 2, 3)}
    room = next(skill for skill in info["skills"] if skill.startswith("robot 2: go to"))
    info = env.step(room)[4]
    assert list(info["trail"]) == ["robot 2"]
    assert env.observe_again()[1]["trail"] == {} and env.step("robot 1: look")[4]["trail"] == {}
