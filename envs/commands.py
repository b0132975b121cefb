"""Commands in words: how they are read, and what comes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from erecap.envs.words import plain


class Impossible(Exception):
    """The command cannot be carried out; the message says why, in words for the planner."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one command."""

    text: str
    failure: str = ""  # why it failed; "" if it did what it says
    subject: str = ""  # the place or room that the text shows as it is now; "" if it shows less than was known


@dataclass(frozen=True)
class Command:
    """A command that was understood."""

    verb: str
    names: tuple[str, ...]


def patterns(**shapes: str) -> dict[str, re.Pattern[str]]:
    """Patterns of commands by their verb, with `_` for a space; capitals do not matter."""
    return {verb.replace("_", " "): re.compile(shape, re.IGNORECASE) for verb, shape in shapes.items()}


def read_command(text: str, shapes: Mapping[str, re.Pattern[str]]) -> Command | None:
    """The command that a text is; None if it is none.

    >>> read_command("Go to the red chair.", patterns(go_to="go to (.+)"))
    Command(verb='go to', names=('the red chair',))
    """
    for verb, pattern in shapes.items():
        match = pattern.fullmatch(plain(text))
        if match:
            return Command(verb, match.groups())
    return None
