"""Commands in words: their shapes, and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erecap.envs.words import plain

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
    "look": re.compile(r"look(?: around)?", re.IGNORECASE),
    "wait": re.compile(r"wait", re.IGNORECASE),
    "charge": re.compile(r"charge", re.IGNORECASE),
    "go to": re.compile(r"go to (.+)", re.IGNORECASE),
    "open": re.compile(r"open (.+)", re.IGNORECASE),
    "close": re.compile(r"close (.+)", re.IGNORECASE),
    "pick up": re.compile(r"pick up (.+)", re.IGNORECASE),
    "put": re.compile(r"put (.+?) (?:on|in|into|onto) (.+)", re.IGNORECASE),
}
_ADDRESS = re.compile(r"([^:]*?)\s*:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command that was understood."""

    verb: str
    names: tuple[str, ...]


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
