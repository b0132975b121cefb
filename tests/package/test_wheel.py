"""The wheel holds `erecap` and nothing else, and works in an empty folder where there is no clone."""

from __future__ import annotations

import json
import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import erecap
from tests.package.conftest import Environment

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"


def test_only_erecap_at_the_top(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"erecap"}
    assert not [name for name in names if name.startswith("erecap/tests")]


def test_data_files_are_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("tasks", "configs"):
        for file in (ROOT / folder).glob("*.yaml"):
            assert f"erecap/{folder}/{file.name}" in names
    assert any(name.startswith("erecap/report/") and name.endswith(".j2") for name in names)
    assert {"erecap/envs/habitat/environment.yml", "erecap/envs/habitat/worker.py"} <= names
    checkpoints = ROOT / "checkpoints"
    shipped = [file for kind in ("safetensors", "json") for file in checkpoints.glob(f"shipped/*/*.{kind}")]
    assert len(shipped) >= 5
    for file in shipped:
        assert f"erecap/checkpoints/{file.relative_to(checkpoints)}" in names
    assert not [name for name in names if "downloaded" in name or "runs" in name.split("/")]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_its_metadata_are_this_version(wheel: Path) -> None:
    assert wheel.name == f"erecap-{erecap.__version__}-py3-none-any.whl"
    metadata = zipfile.ZipFile(wheel).read(f"erecap-{erecap.__version__}.dist-info/METADATA").decode()
    fields = Parser().parsestr(metadata)
    assert fields["Version"] == erecap.__version__ and fields["Requires-Python"] == ">=3.11"
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)$", "\n".join(fields.get_all("Classifier")), re.M)
    assert pythons == ["3.11", "3.12", "3.13"]


def test_it_is_the_installed_one_that_runs(installed: Environment) -> None:
    code = "import erecap, erecap.envs, erecap.planners; print(erecap.__file__, erecap.envs.__file__)"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.folder)) for path in done.stdout.split())
    assert installed.run("erecap", "--version").stdout == f"erecap {erecap.__version__}\n"


def test_without_its_model_a_run_says_how_to_get_it(installed: Environment) -> None:
    done = installed.run("erecap", "rollout", "smoke", "suites=[babyai-demo]", "episodes=1")
    assert done.returncode == 1
    assert f"run `erecap models pull {MODEL}`" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_doctor_finds_all_that_is_needed(with_model: Environment) -> None:
    done = with_model.run("erecap", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(re.findall(r"^\w+ +(\S+(?: \S+)*?)  +(.*?) *$", done.stdout, flags=re.MULTILINE))
    assert str(with_model.python) in said["python"] and said["model"].startswith(f"{MODEL} in {with_model.cache}")
    assert said["environments"] == "babyai, habitat, household, pyrobosim"
    assert said["scorers"] == "attention, random, recency"


def test_it_generates_with_the_adapter_that_ships(with_model: Environment) -> None:
    options = ("--adapter", "smollm2-135m-planner", "--max-new-tokens", "8")
    done = with_model.run("erecap", "generate", MODEL, "Name a colour.", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and re.search(r"^answer +\d tokens", done.stderr, flags=re.MULTILINE)


@pytest.mark.timeout(1200)  # it makes a game, and plays with the model
def test_it_compares_modes_in_both_simulators(with_model: Environment) -> None:
    done = with_model.run("erecap", "compare", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    run = with_model.here / "runs" / "smoke"
    rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    modes = ("full", "prune[attention]", "expert")
    assert {(row["suite"], row["mode"]) for row in rows} == {
        (suite, mode) for suite in ("babyai-demo", "household-demo") for mode in modes
    }
    assert not [row["error"] for row in rows if row["error"]]
    assert "<svg" in (run / "report.html").read_text() and json.loads((run / "run.json").read_text())["git"] is None
    assert [path.name for path in with_model.here.iterdir()] == ["runs"]  # it leaves nothing else behind
