"""Generated houses in habitat-sim: they load whole, and everything can be reached on the navigation mesh."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from erecap.envs.habitat.houses.write import write_house
from tests.envs.habitat.houses.houses import houses

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).with_name("load_houses.py")


def test_fifty_houses_load_and_can_be_walked_through(tmp_path: Path) -> None:
    python = os.environ.get("ERECAP_HABITAT_PYTHON")
    if not python:
        pytest.skip("ERECAP_HABITAT_PYTHON names no interpreter with habitat-sim")
    folders = [tmp_path / str(number) for number in range(len(houses()))]
    for house, folder in zip(houses(), folders, strict=True):
        write_house(house, folder)
    done = subprocess.run(
        [python, str(SCRIPT), *map(str, folders)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "MAGNUM_LOG": "quiet", "HABITAT_SIM_LOG": "quiet"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    surveys = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("house ")]
    for house, found in zip(houses(), surveys, strict=True):
        assert found["navmesh"] and found["ids"] == sorted(thing.id for thing in house.things)
        # What is not covered are corners behind furniture that nobody has to stand in.
        assert min(found["rooms"].values()) > 0.8, house.seed
        for thing in house.things:
            assert found["gaps"][thing.id] <= (0.9 if thing.movable else 0.45), (house.seed, thing.name)
