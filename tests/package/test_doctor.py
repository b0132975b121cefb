"""The doctor finds what is missing, and names the remedy."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from erecap import doctor
from erecap.doctor import (
    check_disk,
    check_extras,
    check_habitat,
    check_model,
    check_package,
    check_registry,
    check_simulator,
    check_writable,
)
from erecap.models.checking import Check
from erecap.registries import ENGINES, ENVIRONMENTS, PLANNERS, SCORERS, EnvEntry, Registry


def test_every_check_reports(tmp_path: Path) -> None:
    checks = doctor.run_checks(runs=tmp_path / "runs")
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"python", "torch", "threads", "memory", "disk", "gpu", "bfloat16", "model", "runs folder"} <= set(names)
    assert {"extra serve", "extra frameworks", "extra ray"} <= set(names)
    assert {"simulator household", "simulator babyai", "simulator pyrobosim", "simulator habitat"} <= set(names)
    assert {"environments", "planners", "scorers", "engines"} <= set(names)
    for check in checks:
        assert check.found and (check.ok is True) == (check.advice == ""), check
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_needed() -> None:
    check = check_package("no-such-package", "1.0")
    assert check.ok is False and "pip install 'no-such-package==1.0'" in check.advice


def test_another_version_is_a_warning() -> None:
    check = check_package("numpy", "0.1", ["torch<1", "numpy>=1.0", "numpy<1; extra == 'old'"])
    assert check.ok == "warn" and check.advice == "if something fails: pip install 'numpy==0.1'"


def test_a_version_out_of_range_is_needed_in_another() -> None:
    found = importlib.metadata.version("numpy")
    check = check_package("numpy", "1.5", ["torch>=2", "numpy>=1.0,<1.9"])
    assert check == Check("numpy", False, f"{found}, needed <1.9,>=1.0", "pip install 'numpy==1.5'")


def test_a_missing_simulator_is_a_warning() -> None:
    check = check_simulator("household", ("no_such_simulator",))
    assert check.ok == "warn" and check.advice == "pip install 'erecap[household]'"


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python", ""])
def test_without_habitat_the_way_to_it_is_told(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERECAP_HABITAT_PYTHON", python)
    if not python and find_spec("habitat_sim") is not None:
        pytest.skip("this interpreter has habitat-sim")
    check = check_habitat()
    assert check.ok == "warn" and "\n" not in check.found
    assert python in check.found and "ERECAP_HABITAT_PYTHON" in check.found
    made = re.fullmatch(r"conda env create -f (.+), then set ERECAP_HABITAT_PYTHON to its python", check.advice)
    assert made is not None
    wanted = yaml.safe_load(Path(made[1]).read_text("utf-8"))
    assert wanted["channels"] == ["conda-forge", "aihabitat"]
    assert {re.split(r"[=<>]", package)[0] for package in wanted["dependencies"]} == {
        "python",
        "habitat-sim",
        "withbullet",
        "headless",
    }


@pytest.mark.integration
def test_the_interpreter_that_has_habitat_is_named() -> None:
    python = os.environ.get("ERECAP_HABITAT_PYTHON")
    if not python:
        pytest.skip("ERECAP_HABITAT_PYTHON names no interpreter with habitat-sim")
    check = check_habitat()
    assert check.ok is not False and check.found.startswith("habitat-sim 0.")
    assert f"ERECAP_HABITAT_PYTHON={python}" in check.found


def test_extras_say_what_they_lack_and_the_line_that_adds_it() -> None:
    checks = check_extras([
        "numpy>=1.0",
        "no-such-package>=1.0",
        "pydantic>=2.0; extra == 'whole'",
        "numpy>=1.0; extra == 'partly'",
        "no-such-package>=2; extra == 'partly'",
        "numpy>=99; extra == 'old'",
        "numpy>=1.0; extra == 'past' and python_version < '3'",
        "alfworld>=0.4; extra == 'household'",
        "erecap[partly,whole]; extra == 'all'",
        "pytest; extra == 'dev'",
    ])  # fmt: skip
    found = {check.name: check for check in checks}
    assert list(found) == ["extra whole", "extra partly", "extra old", "extra past"]  # no simulators, no groups
    version = importlib.metadata.version
    assert found["extra whole"] == Check("extra whole", True, f"pydantic {version('pydantic')}")
    lacking = Check("extra partly", "warn", "no-such-package is not installed", "pip install 'erecap[partly]'")
    assert found["extra partly"] == lacking
    assert found["extra old"].ok == "warn" and found["extra old"].found == f"numpy is {version('numpy')}, wanted >=99"
    assert found["extra past"].ok is True
    apart = check_extras(["vllm>=0.32; extra == 'vllm'"])[0]
    assert apart.ok is True or apart.advice == "pip install 'erecap[vllm]', in an environment of its own"
    assert check_extras([])[0].ok == "warn" and "pip install" in check_extras([])[0].advice


@pytest.mark.parametrize("registry", [ENVIRONMENTS, PLANNERS, SCORERS, ENGINES], ids=lambda registry: registry.kind)
def test_everything_that_is_registered_here_can_be_imported(registry: Registry) -> None:
    (check,) = check_registry(registry)
    assert (check.name, check.ok, check.found) == (f"{registry.kind}s", True, ", ".join(registry))


def test_what_is_registered_and_cannot_be_imported_is_a_warning() -> None:
    entries = {
        "good": "erecap.errors:RunError",
        "gone": "no_such_module:Thing",
        "away": "erecap.errors:NoSuchError",
        "world": EnvEntry("no_such_world:Options", "no_such_world:Env", "a-world"),
    }
    first, *broken = check_registry(Registry("thing", "erecap.things", entries, problem=lambda entry: None))
    assert first == Check("things", True, "good")
    assert [(check.name, check.ok) for check in broken] == [(f"thing {n}", "warn") for n in ("away", "gone", "world")]
    assert all("cannot be imported: " in check.found and "pip install" in check.advice for check in broken)
    assert broken[-1].advice == "pip install 'a-world'" and "no_such_world" in broken[-1].found


def test_a_plug_in_is_shown_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "my_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scorers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[erecap.scorers]\nmine = my_scorers:Mine\nlost = my_scorers:Lost\n")
    (tmp_path / "my_scorers.py").write_text("class Mine:\n    needs_attention = False\n    score = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)
    there, lost = check_registry(SCORERS)
    assert there.found == "attention, mine (of my-scorers), random, recency"
    assert lost.name == "scorer lost" and lost.advice == "pip install --force-reinstall my-scorers"
    assert SCORERS.origin("mine") == "my-scorers" and SCORERS.origin("random") is None


def test_a_missing_model_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path))
    check = check_model()
    assert check.ok is False and "erecap models pull" in check.advice
    (tmp_path / doctor.EMBEDDED).mkdir()
    damaged = check_model()
    assert damaged.ok is False and "config.json is missing" in damaged.found


def test_folders(tmp_path: Path) -> None:
    assert check_writable("runs", tmp_path / "not" / "yet").ok is True
    assert not (tmp_path / "not").exists()
    assert check_disk(tmp_path / "not" / "yet").found.endswith("not/yet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    check = check_writable("runs", tmp_path)
    assert check.ok is False and "permission" in check.advice
