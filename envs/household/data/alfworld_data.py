"""The data that the alfworld package carries: floor plans, object properties, goals, domain and grammar."""

from __future__ import annotations

import importlib
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from erecap.errors import EnvironmentUnavailable
from erecap.files import cache_dir


def need(module: str) -> ModuleType:
    """Import a module of the household extra.

    Raises:
        EnvironmentUnavailable: the module, or one that it needs, is not installed.
    """
    # Importing alfworld makes its data folder, in the home folder unless told otherwise. We read none of it.
    os.environ.setdefault("ALFWORLD_DATA", str(cache_dir() / "alfworld"))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise EnvironmentUnavailable(
            f"the household environment needs the package {missing!r}: pip install 'erecap[household]'"
        ) from error


@cache
def data_root() -> Path:
    """Folder of the installed alfworld package. Raises EnvironmentUnavailable where there is none."""
    spec = find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        need("alfworld")
        raise EnvironmentUnavailable("the alfworld package has no folder of its own; install it again")
    return Path(next(iter(spec.submodule_search_locations)))


def layout_file(number: int, part: str) -> Path:
    """File of one floor plan; `part` is `layout.npy`, `objects.json` or `openable.json`."""
    return data_root() / "gen" / "layouts" / f"FloorPlan{number}-{part}"


@cache
def constants() -> ModuleType:
    """`alfworld.gen.constants`: which receptacle holds what, what can be heated, the split by rooms."""
    return need("alfworld.gen.constants")


@cache
def goals() -> dict[str, dict]:
    """Task type -> `{"pddl": goal with placeholders, "templates": sentences}` (`alfworld.gen.goal_library`)."""
    return need("alfworld.gen.goal_library").gdict


@cache
def domain_text() -> str:
    """The PDDL domain of the household world."""
    return (data_root() / "data" / "alfred.pddl").read_text(encoding="utf-8")


@cache
def grammar_text() -> str:
    """Command templates and feedback sentences, with `UNKNOWN GOAL` where the task sentence goes."""
    return (data_root() / "data" / "alfred.twl2").read_text(encoding="utf-8")
