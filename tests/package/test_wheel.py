"""The wheel holds `erecap` and nothing else, and works where there is no clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is written into the clone; with a downloaded and a shipped checkpoint."""
    source = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for folder in ("erecap", "envs", "planners", "tasks", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "checkpoints").mkdir()
    for file in ("__init__.py", "README.md"):
        shutil.copy(ROOT / "checkpoints" / file, source / "checkpoints")
    for place in ("downloaded", "shipped/small"):
        (source / "checkpoints" / place).mkdir(parents=True)
        (source / "checkpoints" / place / "model.safetensors").write_bytes(b"weights")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index"]
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*command, "--wheel-dir", str(out), "--quiet"], cwd=source, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", str(wheel), "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(target)], check=True)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder with the installed wheel in front of everything else."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("ERECAP_CHECKPOINTS", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


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
    assert "erecap/checkpoints/shipped/small/model.safetensors" in names
    assert not [name for name in names if "downloaded" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_the_installed_one_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import erecap, erecap.envs, erecap.planners; print(erecap.__file__, erecap.envs.__file__)"
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed)) for path in done.stdout.split())


def test_a_packaged_run_plays_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    script = str(installed / "bin" / "erecap")
    done = run(
        installed,
        tmp_path,
        script,
        "rollout",
        "smoke",
        "modes=[expert]",
        "suites=[babyai-demo]",
        "episodes=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / "runs" / "smoke" / "episodes.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["suite"] == "babyai-demo"


def test_without_its_model_a_run_says_how_to_get_it(installed: Path, tmp_path: Path) -> None:
    os.makedirs(tmp_path / "cache")
    script = str(installed / "bin" / "erecap")
    environment = {**os.environ, "PYTHONPATH": str(installed), "ERECAP_CACHE": str(tmp_path / "cache")}
    environment.pop("ERECAP_CHECKPOINTS", None)
    done = subprocess.run(
        [sys.executable, script, "rollout", "smoke", "suites=[babyai-demo]", "episodes=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "run `erecap models pull smollm2-135m-instruct`" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
