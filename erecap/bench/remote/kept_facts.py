"""Facts that the next plan needs, looked for in a shortened chat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from erecap.generation import Message

_NAME = re.compile(r"[a-z]+ \d+")
_TAKE = re.compile(r"take ([a-z]+ \d+) from ([a-z]+ \d+)")

Fact = tuple[str, ...]  # names that one line has to mention together


def needed_facts(plan: str) -> set[Fact]:
    """Facts that an expert's plan relies on: its names, and where the things that it takes were seen.

    Args:
        plan: one command a line.
    """
    facts: set[Fact] = {(name,) for name in _NAME.findall(plan)}
    facts.update(match.groups() for match in _TAKE.finditer(plan))
    return facts


def told(facts: Iterable[Fact], messages: Sequence[Message]) -> set[Fact]:
    """The facts of `facts` that a line of the chat states, the system message aside."""
    lines = [
        _names(line)
        for message in messages
        if message["role"] != "system"
        for line in (message["content"] or "").splitlines()
    ]
    return {fact for fact in facts if any(line.issuperset(fact) for line in lines)}


def _names(line: str) -> set[str]:
    return set(_NAME.findall(line))
