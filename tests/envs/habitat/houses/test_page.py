"""The examples of docs/habitat.md work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from erecap.config.suite import Suite
from erecap.envs import options_class
from erecap.envs.habitat.houses.house import read_house

PAGE = (Path(__file__).parents[4] / "docs" / "habitat.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_house_of_the_page_is_written(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    house = read_house(tmp_path / "my-house")
    assert done.stdout.strip() == str([room.name for room in house.rooms]) and len(house.rooms) == 4
    for line in re.findall(r"^\| `(\S+?)`.* \|", PAGE, flags=re.MULTILINE):
        if "<id>" not in line and line.split(".")[-1] in ("json", "glb"):
            assert (tmp_path / "my-house" / line).is_file(), line


def test_the_suite_and_the_options_of_the_page_are_allowed() -> None:
    written = [yaml.safe_load(text) for text in blocks("yaml")]
    assert len(written) > 1
    for values in written:
        whole = {"name": "page", "env": "habitat", "episodes": 1, "seed": 1, "horizon": 1, **values}
        suite = Suite.model_validate(whole)
        options_class(suite.env)(**suite.options)


def test_the_runs_and_options_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(\w+):", PAGE)) & {"sight", "frames", "gpu", "python"}
    fields = options_class("habitat").model_fields  # type: ignore[attr-defined]
    assert named == {"sight", "frames", "gpu"} and named <= set(fields)
    for name in re.findall(r"^\| `(habitat-\w+)` \|", PAGE, flags=re.MULTILINE):
        assert (Path(__file__).parents[4] / "configs" / f"{name}.yaml").is_file(), name
