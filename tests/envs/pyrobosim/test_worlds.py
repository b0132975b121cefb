"""Generated worlds: they load, differ and reproduce."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml

from erecap.envs.pyrobosim.options import PyRoboSimOptions
from erecap.envs.pyrobosim.simulation import Simulation
from erecap.envs.pyrobosim.worlds.generate import CONTAINERS, generate_world
from erecap.errors import GameError

COUNT = 50


def world(number: int, **options: Any) -> dict[str, Any]:
    return generate_world(PyRoboSimOptions(**options), random.Random(f"world {number}"))


def test_worlds_reproduce_and_differ() -> None:
    made = [world(number) for number in range(COUNT)]
    assert [world(number) for number in range(COUNT)] == made
    assert len({json.dumps(one) for one in made}) == COUNT
    for one in made:
        assert yaml.safe_load(yaml.safe_dump(one)) == one  # so it can be written as a world file


def test_there_is_always_something_open_and_something_closed() -> None:
    for number in range(COUNT):
        kinds = {place["category"] for place in world(number)["locations"]}
        assert kinds & set(CONTAINERS) and kinds - set(CONTAINERS)


@pytest.mark.parametrize("option", ["battery_per_metre", "battery_per_waiting_second"])
def test_where_anything_costs_battery_there_is_a_charger(option: str) -> None:
    for rate in (0.0, 0.5):
        chargers = [place["is_charger"] for place in world(1, **{option: rate})["locations"]]
        assert sum(chargers) == bool(rate)


@pytest.mark.integration
def test_fifty_worlds_load_whole() -> None:
    for number in range(COUNT):
        options = PyRoboSimOptions(
            split=("train", "unseen")[number % 2], robots=1 + number % 8, battery_per_metre=1.0, closed_doors=0.5
        )
        plain = generate_world(options, random.Random(number))
        loaded = Simulation(plain, None, seed=[number])
        assert len(loaded.world.objects) == options.objects and len(loaded.robots) == options.robots
        assert len(loaded.places) == len(plain["locations"]) and all(place.nav_poses for place in loaded.places)
        # Every robot can come to every place of its own room, whatever the furniture.
        room = loaded.room_of(loaded.robots[0])
        near = [place for place in loaded.places if loaded.room_of(place) is room]
        for robot in loaded.robots:
            assert [loaded.navigate(robot, place) for place in near] == [""] * len(near)


@pytest.mark.integration
def test_what_does_not_fit_is_refused() -> None:
    plain = world(1)
    plain["locations"][1]["pose"] = plain["locations"][0]["pose"]
    plain["locations"][1]["parent"] = plain["locations"][0]["parent"]
    with pytest.raises(GameError, match="pyrobosim placed") as caught:
        Simulation(plain, None, seed=[0])
    assert "\n" not in str(caught.value)
    plain = world(1)
    plain["hallways"][0]["room_end"] = "cellar"
    with pytest.raises(GameError, match="cannot load the world: ValueError: cellar"):
        Simulation(plain, None, seed=[0])
