"""Commands on the page of features parse: subcommands, options, and the names of runs, suites and models exist."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from erecap.cli.main import app
from erecap.config import load_run, load_suites
from erecap.models.catalog import CATALOG

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| feature |")
]
COMMANDS = [command for row in ROWS for command in re.findall(r"`((?:erecap|python) [^`]+)`", row[1])]
FEATURES = {
    "wrapper around an existing planner",
    "modes none, random, recency, erecap",
    "prefill and end-to-end profile over lengths",
    "one warm-up, repeated runs",
    "peak memory",
    "lengths that run out of memory are skipped",
    "generate",
    "verification that budgets are exact",
    "tuner",
    "environment check",
    "embodied evaluation",
    "PointNav and ObjectNav in Habitat, and chains",
    "question answering and lm-eval",
    "cooperative runs",
    "real time",
}


@cache
def whole_program() -> Any:
    """The command line, built once: that takes longer than all parsing."""
    return typer.main.get_command(app)


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The full name of a command, and its parameters. Raises click's errors for what it does not know."""
    command = whole_program()
    context, name = None, "erecap"
    while True:
        context = command.make_context(name.split()[-1], list(arguments), parent=context)
        if not hasattr(command, "resolve_command"):
            return name, context.params
        rest = [*context._protected_args, *context.args]
        found, command, arguments = command.resolve_command(context, rest)
        name = f"{name} {found}"


def check_names(name: str, given: dict[str, Any]) -> None:
    """Packaged runs, their suites and changes, and models: all of them exist."""
    if name in ("erecap compare", "erecap rollout", "erecap quality"):
        load_suites(load_run(given["config"], given["overrides"] or []))
    if name in ("erecap generate", "erecap chat"):
        assert given["model"] in CATALOG
    if name in ("erecap models check", "erecap models pull"):
        assert given["name"] in CATALOG
    if name == "erecap bench replan":
        from erecap.cli.benching import names_in, numbers_in
        from erecap.config.modes import parse_mode

        assert numbers_in(given["lengths"], "--lengths", 1)
        assert all(parse_mode(mode).needs_model for mode in names_in(given["modes"]))


def test_every_feature_has_a_row_with_a_command() -> None:
    for feature in FEATURES:
        [row] = [row for row in ROWS if row[0] == feature or row[0].startswith((f"{feature}:", f"{feature} of"))]
        assert len(row) == 3 and ("`" in row[1] or "the same" in row[1]) and "](" in row[2], feature
    assert len(COMMANDS) >= len(ROWS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses_and_its_names_exist(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    program, *arguments = shlex.split(command)
    if program == "erecap":
        check_names(*parsed(arguments))
        return
    file = ROOT / arguments[0]
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.setattr(sys, "argv", [file.name, *arguments[1:], "--help"])  # an unknown option would come first
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(file), run_name="__main__")
    sys.modules.pop("home", None)
    assert left.value.code == 0 and all(
        option in capsys.readouterr().out for option in arguments if option.startswith("--")
    )


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("erecap compere smoke", "No such command"),
        ("erecap compare smoke --batches 2", "No such option"),
        ("erecap compare smoke-and-mirrors", "smoke-and-mirrors"),
        ("erecap compare smoke modes=fast", "fast"),
        ("erecap compare smoke suites=[garden]", "garden"),
        ("erecap bench replan --memory --lengths none", "allowed: whole numbers"),
    ],
)
def test_what_does_not_exist_is_found(command: str, error: str) -> None:
    with pytest.raises(Exception, match=error):
        check_names(*parsed(shlex.split(command)[1:]))
