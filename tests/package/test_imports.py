"""Imports point one way, and `import erecap` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]

# Every room may import itself and the rooms after it, type-only imports included.
ORDER = (
    "cli", "doctor", "evaluation", "tuning", "training", "bench", "rollout", "report", "serving", "wrapping",
    "calibration", "language_models", "planners", "envs", "session", "engines", "decoding", "tokens", "layers",
    "models", "parallel", "scheduling", "protocols", "context", "cost", "config", "worker_process", "validation",
    "registries", "budget", "generation", "targets", "threading_policy", "untrusted", "time_limit", "errors", "files",
    "__version__",
)  # fmt: skip
# The front door imports what it offers when it is asked for; the data folders hold no code.
UNORDERED = {"__init__", "checkpoints", "configs", "tasks"}
# Rooms with folders inside: their folders and files are ordered as well, and may not import each other in a circle.
INSIDE = ("erecap.session", "erecap.engines", "erecap.tokens", "erecap.layers", "erecap.training", "erecap.bench",
          "erecap.report", "erecap.rollout", "erecap.evaluation", "erecap.envs.household", "erecap.envs.pyrobosim",
          "erecap.planners", "erecap.language_models", "erecap.wrapping", "erecap.serving")  # fmt: skip


def modules() -> Iterator[tuple[Path, tuple[str, ...], ast.Module]]:
    """(file, its dotted name, its syntax) of every module of ours."""
    for package, folder in {"erecap": "erecap", **MAPPED}.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            dotted = (*package.split("."), *file.relative_to(ROOT / folder).with_suffix("").parts)
            if dotted[-1] == "__init__" and len(dotted) > 2:
                dotted = dotted[:-1]
            yield file, dotted, ast.parse(file.read_text())


def imported(file: Path, tree: ast.Module) -> Iterator[str]:
    """Every name `erecap...` that the file imports, wherever in it."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("erecap."))


def test_rooms_are_in_one_total_order() -> None:
    rank = {room: number for number, room in enumerate(ORDER)}
    wrong = []
    for file, dotted, tree in modules():
        room = dotted[1]
        if room in UNORDERED:
            continue
        for name in imported(file, tree):
            target = name.split(".")[1]
            if target != room and not (target in rank and room in rank and rank[target] > rank[room]):
                wrong.append(f"{file.relative_to(ROOT)} ({room}) imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", INSIDE)
def test_the_parts_of_a_room_do_not_import_each_other_in_a_circle(room: str) -> None:
    depth = len(room.split("."))
    edges: dict[str, set[str]] = {}
    parts = {dotted[depth] for _, dotted, _ in modules() if ".".join(dotted[:depth]) == room and len(dotted) > depth}
    for file, dotted, tree in modules():
        if ".".join(dotted[:depth]) == room and len(dotted) > depth:
            for name in imported(file, tree):
                pieces = name.split(".")
                if name.startswith(f"{room}.") and pieces[depth] in parts and pieces[depth] != dotted[depth]:
                    edges.setdefault(dotted[depth], set()).add(pieces[depth])
    try:
        tuple(TopologicalSorter(edges).static_order())
    except CycleError as error:
        pytest.fail(f"{room}: {' -> '.join(error.args[1])}")


# Attributes of foreign objects that happen to be called like one of our privates.
FOREIGN = {
    "_version",  # of torch tensors: counts their changes in place
    "_history",  # of DimOS's agents: the chat that they send
}


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and names `thing._name` of things that are not `self`, `cls` or another object of the same class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("erecap"):
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield node.lineno, alias.name


def defined_privates(tree: ast.Module) -> set[str]:
    """Private names that a file defines: functions, classes, attributes assigned to, slots of dataclasses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return {name for name in found if name.startswith("_")}


def test_no_private_is_used_from_outside_its_room() -> None:
    owners: dict[str, set[str]] = {}
    for _, dotted, tree in modules():
        for name in defined_privates(tree):
            owners.setdefault(name, set()).add(dotted[1])
    users = [(file, dotted[1], tree) for file, dotted, tree in modules()]
    for file in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(file.read_text())
        users.append((file, f"tests of {file.relative_to(ROOT / 'tests').parts[0]}", tree))
    wrong = []
    for file, room, tree in users:
        own = defined_privates(tree)
        for line, name in private_names(tree):
            if name in owners and name not in FOREIGN and room not in owners[name] and name not in own:
                wrong.append(f"{file.relative_to(ROOT)}:{line} uses {name} of {', '.join(sorted(owners[name]))}")
    assert not wrong, "\n".join(wrong)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = ("torch", "transformers", "gymnasium", "textworld", "minigrid", "matplotlib", "networkx")


@pytest.mark.parametrize("module", ["erecap", "erecap.models", "erecap.config", "erecap.cli.main", "erecap.wrapping"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))")
    assert loaded == ""


def test_import_loads_nothing_but_itself() -> None:
    code = "import sys; before = set(sys.modules); import erecap; print(*sorted(set(sys.modules) - before))"
    new = run(code).split()
    foreign = [name for name in new if name.split(".")[0] not in sys.stdlib_module_names]
    assert foreign == ["erecap", "erecap.threading_policy"]


def test_the_public_names_exist() -> None:
    import erecap

    for name in erecap.__all__:
        assert getattr(erecap, name) is not None
    assert callable(erecap.wrap) and callable(erecap.prune)
    assert set(erecap.__all__) <= set(dir(erecap))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = erecap.nothing


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import atexit, sys; "
        f"atexit.register(lambda: print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))); "
        "sys.argv = ['erecap', '--help']; from erecap.cli.main import main; main()"
    )
    assert run(code).splitlines()[-1] == "loaded:"
