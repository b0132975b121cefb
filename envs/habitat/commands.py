"""Commands in words: their shapes, and how they are read."""

from __future__ import annotations

from erecap.envs.commands import Command, patterns, read_command

NAVIGATION = ("look around", "explore {frontier}", "go to {place}", "stop")
FETCHING = ("look around", "explore {frontier}", "go to {place}", "pick up {item}", "put {item} on {surface}")
"""Slots: {frontier} where seen floor ends, {place} what was seen, rooms included, {item} objects, {surface} furniture
that objects lie on."""

_PATTERNS = patterns(
    look="look(?: around)?",
    stop="stop",
    explore="explore (.+)",
    go_to="go to (.+)",
    pick_up="pick up (.+)",
    put="put (.+?) (?:on|in|into|onto) (.+)",
)


def parse(text: str) -> Command | None:
    """The command that a text is; None if it is none.

    >>> parse("Go to the red chair.")
    Command(verb='go to', names=('the red chair',))
    """
    return read_command(text, _PATTERNS)
