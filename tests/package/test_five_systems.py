"""The page of the five systems: its commands exist and parse, and a test runs each of them."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.cli.main import app
from tests.package.test_features_page import parsed, whole_program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "five-systems.md").read_text()
SYSTEMS = {"SDTP": 10, "E-RECAP": 15, "CASRAP": 12, "SPRINT": 12, "SpecEE": 8}  # rows of each


def rows_of(text: str) -> list[list[str]]:
    """The cells of the rows of a text's tables."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return [row for row in rows if row[0] != "row"]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = rows_of(PAGE)
COMMANDS = list(dict.fromkeys(command for row in ROWS for command in spans(row[1])))
NAMES = sorted({parsed(shlex.split(command)[1:])[0] for command in COMMANDS})


def runs_it(name: str, test: str) -> bool:
    """True if a test file gives the command's last word to the command line."""
    word = name.split()[-1]
    # `erecap(...)` of tests/cli, click's runner, or the program in a process of its own.
    front = re.search(r"erecap\(|erecap\.cli|CliRunner", test) is not None
    return front and re.search(rf"[\"']{re.escape(word)}[\"' ]", test) is not None


def test_every_system_has_its_rows() -> None:
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert {part.split(":")[0]: len(rows_of(part)) for part in parts} == SYSTEMS
    assert all(len(row) == 4 and spans(row[1]) and spans(row[2]) and "](" in row[3] for row in ROWS)
    assert len({row[0] + row[1] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_each_command_exists(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split()[1:], "--help"])
    assert done.exit_code == 0 and "Usage:" in done.output


def test_each_command_parses_and_is_run_by_the_test_that_is_named() -> None:
    for row in ROWS:
        tests = [(ROOT / path).read_text() for path in spans(row[2])]
        for command in spans(row[1]):
            program, *arguments = shlex.split(command)
            name, _ = parsed(arguments)
            assert program == "erecap" and any(runs_it(name, test) for test in tests), f"{row[0]}: {command}"


def test_a_file_is_named_where_a_file_is_wanted_and_a_folder_where_a_folder_is() -> None:
    for command in COMMANDS:
        words = shlex.split(command)
        found: Any = whole_program()
        for word in parsed(words[1:])[0].split()[1:]:
            found = found.commands[word]
        wanted = {name: option.metavar for option in found.params for name in option.opts}
        for option, value in pairwise(words):
            if {value, wanted.get(option)} <= {"FILE", "FOLDER"}:
                assert value == wanted[option], f"{command}: {option} wants a {wanted[option]}"


@pytest.mark.parametrize(
    ("command", "error"),
    [("erecap layers find sprint MODEL --metrics l1 --out x", "No such option"), ("erecap traine exit x", "No such")],
)
def test_what_does_not_exist_is_found(command: str, error: str) -> None:
    with pytest.raises(Exception, match=error):
        parsed(shlex.split(command)[1:])


@pytest.mark.parametrize(
    ("name", "test", "found"),
    [
        ("erecap layers find", 'erecap("layers", "find")', True),
        ("erecap layers find", 'erecap("layers", "take")', False),
        ("erecap layers find", 'text = "find"', False),
    ],
)
def test_a_test_that_does_not_run_the_command_is_found(name: str, test: str, found: Any) -> None:
    assert runs_it(name, test) is found
