"""The distributions of this project, built once as a release is: an sdist of the tree, and a wheel of the sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_BEHIND = {"runs", "site", "build", "dist"}  # what work in a clone leaves there


@dataclass(frozen=True)
class Environment:
    """A virtual environment whose dependencies are this one's, and an empty folder to run things in."""

    folder: Path
    here: Path
    cache: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, `python` or a script, in the empty folder unless told otherwise."""
        variables = {**os.environ, "ERECAP_CACHE": str(self.cache), "COLUMNS": "200"}
        for name in ("ERECAP_CHECKPOINTS", "PYTHONPATH"):
            variables.pop(name, None)
        program, *arguments = map(str, command)
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=cwd or self.here,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


def new_environment(at: Path, *requirement: str | Path) -> Environment:
    """A virtual environment with one thing installed, without a network.

    Args:
        at: an empty folder.
        requirement: what pip is to install, `-e` in front of a folder included.
    """
    environment = Environment(at / "venv", at / "here", at / "cache")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment.folder)], check=True)
    environment.here.mkdir()
    environment.cache.mkdir()
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "--quiet"]
    # Editable installs build with setuptools, which they find where the dependencies are.
    (packages,) = environment.folder.glob("lib/python*/site-packages")
    ours = [entry for entry in dict.fromkeys(sys.path) if Path(entry).name == "site-packages"]
    (packages / "dependencies.pth").write_text("".join(f"{entry}\n" for entry in ours))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, *options, *map(str, requirement)], check=True)
    return environment


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel, built from a copy in which a run and a downloaded model lie."""
    source = tmp_path_factory.mktemp("source") / "erecap"

    def skipped(folder: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".") and name not in (".ci", ".github")}
        generated = {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}
        left = LEFT_BEHIND & set(names) if Path(folder) == ROOT else set()
        models = {name for name in names if Path(folder, name).is_dir()} - {"shipped"}
        return hidden | generated | left | (models if Path(folder) == ROOT / "checkpoints" else set())

    shutil.copytree(ROOT, source, ignore=skipped)
    for place in ("checkpoints/downloaded/model.safetensors", "runs/old/episodes.jsonl", ".venv/bin/python"):
        (source / place).parent.mkdir(parents=True)
        (source / place).write_bytes(b"not to be packed")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ((sdist,), (wheel,)) = (list(out.glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    return sdist, wheel


@pytest.fixture(scope="session")
def sdist(distributions: tuple[Path, Path]) -> Path:
    return distributions[0]


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    return distributions[1]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that holds the wheel; no clone, no model."""
    return new_environment(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(scope="session")
def with_model(installed: Environment, embedded_model_folder: Path) -> Environment:
    """The same after `erecap models pull`: the model lies where that command puts it without a clone."""
    other = installed.folder.parent / "with_model"
    models = other / "cache" / "models"
    models.mkdir(parents=True)
    (models / embedded_model_folder.name).symlink_to(embedded_model_folder.resolve())
    (other / "here").mkdir()
    return Environment(installed.folder, other / "here", other / "cache")


@pytest.fixture(scope="session")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top
