"""Options of all commands: those that several commands share, and help texts as a terminal shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.main import get_command
from typer.testing import CliRunner

from erecap.cli.main import app as whole
from erecap.cli.shared_options import with_options
from tools.readme.cli_reference import _commands


@dataclass(frozen=True)
class Both:
    """Options of two commands."""

    model: Annotated[str, typer.Argument(metavar="MODEL")]
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5


@dataclass(frozen=True)
class Fewer(Both):
    """The same with another default."""

    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 1


def test_commands_share_options_that_stand_once() -> None:
    app, got = typer.Typer(), []

    @app.command()
    @with_options(Both)
    def one(options: Both) -> None:
        """Do one thing."""
        got.append(options)

    @app.command()
    @with_options(Fewer)
    def two(options: Fewer, of: Annotated[str, typer.Option(help="What.")] = "all") -> None:
        got.append((options, of))

    def call(*arguments: str) -> int:
        return CliRunner().invoke(app, list(arguments)).exit_code

    assert call("one", "tiny", "--rounds", "3") == 0 and call("two", "tiny", "--of", "some") == 0
    assert got == [Both("tiny", 3), (Fewer("tiny", 1), "some")]
    assert call("one") == 2 and call("one", "tiny", "--rounds", "0") == 2 and call("one", "tiny", "--of", "x") == 2
    assert "Do one thing." in CliRunner().invoke(app, ["one", "--help"]).output


def test_brackets_in_help_texts_are_escaped() -> None:
    # The terminal takes [word] for a style, and leaves it out.
    for name, command in _commands(get_command(whole), "erecap"):
        for text in [command.help, *(parameter.help for parameter in command.params if hasattr(parameter, "help"))]:
            assert re.search(r"(?<!\\)\[[a-z#/@]", text or "") is None, f"{name}: {text}"
