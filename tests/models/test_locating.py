"""Lookup of model folders by name, and the state of the catalog."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erecap.errors import ModelError
from erecap.models import CATALOG, check, list_models, locate

NAME = "smollm2-135m-instruct"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and empty folders for models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_what_is_not_pulled_says_how_to_pull_it(elsewhere: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(f"run `erecap models pull {NAME}`")):
        locate(NAME)
    (result,) = check(NAME)
    assert result.ok is False and result.advice == f"run `erecap models pull {NAME}`"
    assert {row.state for row in list_models()} == {"absent"}


def test_states_of_the_catalog(elsewhere: Path, tiny: Path) -> None:
    shutil.copytree(tiny, elsewhere / NAME)
    rows = {row.name: row for row in list_models()}
    assert set(rows) == set(CATALOG)
    assert rows[NAME].state == "pulled" and rows[NAME].path == elsewhere / NAME
    assert locate(NAME) == elsewhere / NAME
    (elsewhere / NAME / "config.json").unlink()
    (row,) = [row for row in list_models() if row.name == NAME]
    assert row.state == "damaged" and "config.json is missing" in row.problem


def test_a_copy_with_other_weights_is_found_out(elsewhere: Path, tiny: Path) -> None:
    shutil.copytree(tiny, elsewhere / NAME)
    weights = next(result for result in check(NAME) if result.name == "weights")
    assert weights.ok is False and "--force" in weights.advice


def test_order_of_places(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ERECAP_CHECKPOINTS", raising=False)
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny, tmp_path / "cache" / "models" / "mine")
    assert locate("mine") == tmp_path / "cache" / "models" / "mine"
    shutil.copytree(tiny, tmp_path / "checkpoints" / "mine")
    assert locate("mine") == tmp_path / "checkpoints" / "mine"


@pytest.mark.parametrize("name", ["", "no-such-model", "./no/such/folder", "/no/such", "a/b/c", "ünknown", "../up"])
def test_names_that_lead_nowhere(elsewhere: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(name)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    """In a process of its own: the hub client reads its address once."""
    code = (
        "from erecap.models import locate\n"
        "from erecap.errors import ModelError\n"
        "try:\n    locate('owner/model')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot get 'owner/model' from the model hub")
    assert done.stdout.count("\n") == 1
