"""pyproject.toml and constraints.txt agree with the folders and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from erecap.doctor import SIMULATORS, TESTED

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def folders_on_disk() -> set[str]:
    """Dotted names of all packages that the folders hold."""
    roots = {"erecap": "erecap", **SETUPTOOLS["package-dir"]}
    found = set()
    for package, folder in roots.items():
        for marker in (ROOT / folder).rglob("__init__.py"):
            inside = marker.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inside)))
    return found


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders_on_disk())


def test_no_module_lies_in_a_folder_that_is_no_package() -> None:
    for top in ("erecap", *SETUPTOOLS["package-dir"].values()):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module.parent} has no __init__.py"


def test_every_data_file_is_covered_by_a_pattern() -> None:
    """A new template or YAML file that the wheel would miss."""
    patterns = SETUPTOOLS["package-data"]
    for package, folder in {"erecap": "erecap", **SETUPTOOLS["package-dir"]}.items():
        for file in (ROOT / folder).rglob("*"):
            inside = file.relative_to(ROOT / folder)
            if package == "erecap.checkpoints" or not file.is_file() or file.suffix in (".py", ".pyc", ".md"):
                continue
            owner = ".".join((package, *inside.parts[:-1]))
            assert any(Path(file.name).match(p) for p in patterns.get(owner, [])), f"{file} is in no package-data"


def test_constraints_are_plain_versions() -> None:
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


@pytest.mark.parametrize("group", ["core", "household", "babyai", "pyrobosim", "habitat", "evaluate", "dev"])
def test_constraints_hold_every_dependency_within_its_range(group: str) -> None:
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
    wanted = PROJECT["project"]["dependencies"] if group == "core" else EXTRAS[group]
    for requirement in map(Requirement, wanted):
        if requirement.name != "erecap":
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_the_doctor_knows_the_tested_versions_and_simulators() -> None:
    for name, version in TESTED.items():
        assert f"{name}=={version}" in LINES
    for extra, modules in SIMULATORS.items():
        assert {Requirement(entry).name for entry in EXTRAS[extra]} == set(modules)


def test_dev_and_all_take_the_other_extras() -> None:
    assert "erecap[household,babyai,pyrobosim,habitat,serve,frameworks,ray,evaluate]" in EXTRAS["dev"]
    # llama.cpp is compiled, which takes a compiler and ten minutes; vLLM brings a torch of its own.
    apart = ("dev", "docs", "all", "llamacpp", "vllm")
    assert EXTRAS["all"] == [f"erecap[{','.join(name for name in EXTRAS if name not in apart)}]"]
    assert "erecap[docs]" in EXTRAS["dev"]  # tools of this repository, so `all` has none of them
