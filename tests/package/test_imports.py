"""Imports point one way, and `import erecap` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]

CORE = {
    "budget",
    "context",
    "cost",
    "decoding",
    "errors",
    "files",
    "generation",
    "language_model",
    "models",
    "protocols",
    "session",
    "tokens",
    "wrapping",
}
# What each room may import besides itself. A room that is missing here may import core only.
ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    "envs": CORE | {"config"},
    "config": CORE | {"envs"},
    "planners": CORE,
    "report": CORE | {"config"},
    "rollout": CORE | {"config", "envs", "planners"},
    "bench": CORE | {"config", "envs", "serving"},
    "tuning": CORE | {"bench", "config", "training"},
    "training": CORE | {"config", "envs", "planners", "rollout"},
    "cli": CORE
    | {"bench", "config", "doctor", "envs", "planners", "report", "rollout", "serving", "training", "tuning"},
    "__init__": CORE,
}


def imports() -> Iterator[tuple[Path, str, str]]:
    """(file, its room, the room that it imports) for every import of ours, wherever in the file it stands."""
    for package, folder in {"erecap": "erecap", **MAPPED}.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            dotted = (*package.split("."), *file.relative_to(ROOT / folder).with_suffix("").parts)
            for node in ast.walk(ast.parse(file.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{file}: imports are written in full"
                    module = node.module or ""
                    names = [f"{module}.{a.name}" for a in node.names] if module == "erecap" else [module]
                for name in names:
                    if name.startswith("erecap."):
                        yield file, dotted[1], name.split(".")[1]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports erecap.{target}"
        for file, room, target in imports()
        if target not in {room, "__version__"} and target not in ALLOWED.get(room, CORE)
    ]
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
    assert [name for name in new if name.split(".")[0] not in sys.stdlib_module_names] == ["erecap"]


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
