"""The sdist holds what building, testing and documenting the project takes, and no runs and no downloaded models."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import erecap
from tests.package.conftest import new_environment

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "erecap", "envs", "planners", "tasks", "configs", "checkpoints/shipped", "tests", "tools", "examples", "docs",
)  # fmt: skip
FILES = (
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt",
    "mkdocs.yml", "pyproject.toml", "checkpoints/README.md", "checkpoints/__init__.py", ".ci/run",
)  # fmt: skip


def test_everything_that_belongs_is_inside(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert sdist.name == f"erecap-{erecap.__version__}.tar.gz"
    here = {str(file.relative_to(ROOT)) for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()}
    wanted = {name for name in here if "__pycache__" not in name and not name.endswith(".pyc")}
    assert len(wanted) > 700
    assert sorted((wanted | set(FILES)) - names) == []


def test_runs_models_and_environments_stay_out(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive]
    tops = {name.split("/")[0] for name in names}
    assert "runs" not in tops and ".venv" not in tops
    models = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert models <= {"README.md", "__init__.py", "shipped"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_core_is_tested_from_the_sdist(unpacked: Path, tmp_path: Path) -> None:
    environment = new_environment(tmp_path, "-e", unpacked)
    where = environment.run("python", "-c", "import erecap, erecap.envs; print(erecap.__file__, erecap.envs.__file__)")
    assert all(path.startswith(str(unpacked)) for path in where.stdout.split()), where.stderr
    everything = environment.run("python", "-m", "pytest", "--collect-only", "--quiet", cwd=unpacked)
    assert everything.returncode == 0, everything.stdout[-2000:]
    rooms = [f"tests/{room}" for room in ("context", "cost", "scheduling", "tokens")]
    unit = ("-m", "pytest", "--quiet", "-m", "not slow and not integration", *rooms)
    done = environment.run("python", *unit, cwd=unpacked)
    assert done.returncode == 0, done.stdout[-2000:]
