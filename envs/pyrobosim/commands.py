"""Commands in words: their shapes, and how they are read."""

from __future__ import annotations

import re

from erecap.envs.commands import Command, patterns, read_command

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

_PATTERNS = patterns(
    look="look(?: around)?",
    wait="wait",
    charge="charge",
    go_to="go to (.+)",
    open="open (.+)",
    close="close (.+)",
    pick_up="pick up (.+)",
    put="put (.+?) (?:on|in|into|onto) (.+)",
)
_ADDRESS = re.compile(r"([^:]*?)\s*:\s*(.*)", re.DOTALL)


def parse(text: str) -> Command | None:
    """The command that a text is; None if it is none."""
    return read_command(text, _PATTERNS)


def addressee(text: str) -> tuple[str, str]:
    """Name of the robot that a command begins with, "" if with none, and the rest.

    >>> addressee("robot 2: go to kitchen")
    ('robot 2', 'go to kitchen')
    >>> addressee("look")
    ('', 'look')
    """
    match = _ADDRESS.fullmatch(text.strip())
    return (match[1], match[2]) if match else ("", text)
