"""Commands in words: their shapes, and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erecap.envs.words import plain

NAVIGATION = ("look around", "explore {frontier}", "go to {place}", "stop")
FETCHING = ("look around", "explore {frontier}", "go to {place}", "pick up {item}", "put {item} on {surface}")
"""Slots: {frontier} where seen floor ends, {place} what was seen, rooms included, {item} objects, {surface} furniture
that objects lie on."""

_PATTERNS = {
    "look": re.compile(r"look(?: around)?", re.IGNORECASE),
    "stop": re.compile(r"stop", re.IGNORECASE),
    "explore": re.compile(r"explore (.+)", re.IGNORECASE),
    "go to": re.compile(r"go to (.+)", re.IGNORECASE),
    "pick up": re.compile(r"pick up (.+)", re.IGNORECASE),
    "put": re.compile(r"put (.+?) (?:on|in|into|onto) (.+)", re.IGNORECASE),
}


@dataclass(frozen=True)
class Command:
    """A command that was understood."""

    verb: str
    names: tuple[str, ...]


def parse(text: str) -> Command | None:
    """The command that a text is; None if it is none.

    >>> parse("Go to the red chair.")
    Command(verb='go to', names=('the red chair',))
    """
    for verb, pattern in _PATTERNS.items():
        match = pattern.fullmatch(plain(text))
        if match:
            return Command(verb, match.groups())
    return None
