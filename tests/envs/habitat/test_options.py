"""Options of the Habitat environment that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from erecap.config import load_suite
from erecap.envs.habitat.options import HabitatOptions

SUITES = [f"habitat-{kind}{split}" for kind in ("pointnav", "objectnav", "chains", "fetch") for split in ("", "-train")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": ["chain", "chain"]}, "chain"),
        ({"rooms": [4, 3]}, "two whole numbers from 2 to 9"),
        ({"goals": [1, 3]}, "two whole numbers from 2 to 8"),
        ({"scene_dataset": "x"}, "scene_dataset has no meaning without scene or episodes_file"),
        ({"scene": "a.glb", "rooms": [3, 4], "objects": 3}, "objects, rooms has no meaning together with scene"),
        ({"episodes_file": "a.json", "tasks": ["fetch"]}, "tasks has no meaning together with episodes_file"),
        ({"episodes_file": "a.json", "scene": "a.glb"}, "scene has no meaning together with episodes_file"),
        (
            {"episodes_file": "a.json", "scene_dataset": "x", "scenes_dir": "y"},
            "scenes_dir has no meaning together with scene_dataset",
        ),
        ({"tasks": ["fetch", "objectnav"], "goals": [3, 4]}, "goals has no meaning without the task tour or chain"),
        ({"success_distance": 0.19}, "greater than or equal to 0.2"),
        ({"sight": "x-ray"}, "rays"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HabitatOptions(**options)


@pytest.mark.parametrize("name", SUITES)
def test_suites(name: str) -> None:
    suite = load_suite(name)
    options = HabitatOptions(**suite.options)
    assert suite.env == "habitat" and options.split == ("train" if name.endswith("-train") else "unseen")
    assert suite.horizon >= 10 * (options.goals[1] if "chain" in options.tasks else 1)


def test_seeds_of_suites_differ() -> None:
    numbers = [range(suite.seed, suite.seed + 600) for suite in map(load_suite, SUITES)]
    assert len({number for numbers_of_one in numbers for number in numbers_of_one}) == 600 * len(SUITES)
