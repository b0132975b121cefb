"""A suite's options, refused in one line where they make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erecap.config import load_suite
from erecap.envs import make_env
from erecap.envs.pyrobosim.options import PyRoboSimOptions
from erecap.errors import ConfigError
from tests.envs.test_registry import SmallSuite


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"robots": 9}, "robots"),
        ({"tasks": ["fetch", "fetch"]}, "names fetch more than once"),
        ({"rooms": [5, 4]}, "two whole numbers from 2 to 9, the smaller one first"),
        ({"failures": 1.0}, "failures"),
        ({"objects": 2, "gather": 3}, "gather: 3 of 2 objects"),
        ({"objects": 2, "gather": 3, "tasks": ["order"]}, "gather: 3 of 2 objects"),
        ({"objects": 2, "gather": 3, "tasks": ["search"]}, "gather: 3 of 2 objects"),
        ({"battery_per_metre": 1.4}, "allowed: at most 1.3 in up to 6 rooms"),
        ({"tasks": ["fetch"], "gather": 3}, "gather has no meaning without the task gather, search or order"),
        ({"turns": "team"}, "turns has no meaning with one robot"),
        ({"robots": 1, "world": "w.yaml", "knowledge": "own"}, "knowledge has no meaning with one robot"),
        ({"world": "w.yaml", "rooms": [2, 3]}, "rooms has no meaning together with world"),
        ({"world": "/nowhere/w.yaml"}, "world: /nowhere/w.yaml cannot be read"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_env(SmallSuite(env="pyrobosim", options=options))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_battery_that_lasts_is_let_in() -> None:
    assert PyRoboSimOptions(battery_per_metre=1.3).battery_per_metre == 1.3
    assert PyRoboSimOptions(battery_per_metre=2.0, rooms=(2, 3)).rooms == (2, 3)


@pytest.mark.parametrize("text", ["[]", "rooms: [", "rooms: []\n", "rooms: [{name: a}]\nlocations: 3\n"])
def test_files_that_are_no_worlds(tmp_path: Path, text: str) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"world: .*world\.yaml") as caught:
        make_env(SmallSuite(env="pyrobosim", options={"world": str(file)}))
    assert "\n" not in str(caught.value)


def test_suites_of_this_repository() -> None:
    suites = {name: load_suite(f"pyrobosim-{name}") for name in ("train", "unseen", "gather")}
    assert {name: suite.options.get("split") for name, suite in suites.items()} == {
        "train": "train", "unseen": "unseen", "gather": "unseen",
    }  # fmt: skip
    assert suites["gather"].options["robots"] == 4
    # Another seed, so that no chance of one suite is in another either.
    assert len({suite.seed for suite in suites.values()}) == 3
