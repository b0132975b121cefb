"""Commands in words: their shapes, and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

TEMPLATES = (
    "look",
    "wait",
    "charge",
    "go to {place}",
    "open {openable}",
    "close {openable}",
    "pick up {item}",
    "put {item} on {surface}",
)
"""Slots: {place} rooms, closed doors and furniture, {openable} doors and furniture that can be opened, {item} objects,
{surface} furniture that objects lie on or in."""

_PATTERNS = {
    "look": re.compile(r"look(?: around)?"),
    "wait": re.compile(r"wait"),
    "charge": re.compile(r"charge"),
    "go to": re.compile(r"go to (.+)"),
    "open": re.compile(r"open (.+)"),
    "close": re.compile(r"close (.+)"),
    "pick up": re.compile(r"pick up (.+)"),
    "put": re.compile(r"put (.+?) (?:on|in|into|onto) (.+)"),
}
_ADDRESS = re.compile(r"(robot[ _]?\w+)\s*:\s*(.*)", re.DOTALL)
MOST_CHARACTERS = 100  # of a command that is shown again


@dataclass(frozen=True)
class Command:
    """A command that was understood."""

    verb: str
    names: tuple[str, ...]


def plain(text: str) -> str:
    """A command without articles, doubled spaces and its full stop; short and in ASCII, since it is shown again."""
    words = re.sub(r"\b(the|a|an)\b", " ", text)
    return " ".join(words.split()).rstrip(".")[:MOST_CHARACTERS].encode("ascii", "replace").decode()


def parse(text: str) -> Command | None:
    """The command that a text is; None if it is none."""
    for verb, pattern in _PATTERNS.items():
        match = pattern.fullmatch(plain(text))
        if match:
            return Command(verb, match.groups())
    return None


def addressee(text: str) -> tuple[str, str]:
    """Name of the robot that a command begins with, "" if with none, and the rest.

    >>> addressee("robot 2: go to kitchen")
    ('robot 2', 'go to kitchen')
    >>> addressee("look")
    ('', 'look')
    """
    match = _ADDRESS.fullmatch(text.strip())
    return (match[1], match[2]) if match else ("", text)
