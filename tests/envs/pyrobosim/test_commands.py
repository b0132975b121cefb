"""Commands as planners write them."""

from __future__ import annotations

import doctest

import pytest

import erecap.envs.pyrobosim.commands as room
from erecap.envs.pyrobosim.commands import Command, addressee, parse
from erecap.envs.words import plain


def test_doctest() -> None:
    assert doctest.testmod(room).failed == 0


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("look", Command("look", ())),
        ("Look around.", Command("look", ())),
        ("go to  the kitchen", Command("go to", ("the kitchen",))),
        ("put cup 1 in cabinet 2", Command("put", ("cup 1", "cabinet 2"))),
        ("put cup 1 onto shelf 1", Command("put", ("cup 1", "shelf 1"))),
        ("pick up lamp 3", Command("pick up", ("lamp 3",))),
        ("go to", None),
        ("put cup 1", None),
        ("fly to the moon", None),
        ("", None),
    ],
)
def test_what_is_a_command(text: str, command: Command | None) -> None:
    assert parse(text) == command


def test_addressees() -> None:
    assert addressee("robot 12 :  put cup 1 on table 1") == ("robot 12", "put cup 1 on table 1")
    assert addressee(": look") == ("", "look") and addressee("go to table") == ("", "go to table")


def test_what_is_shown_again_is_short_and_plain() -> None:
    assert len(plain("take " * 300)) == 100 and plain("go  to \u5b89 .") == "go to ?"
