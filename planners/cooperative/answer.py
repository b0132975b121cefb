"""The answer of a cooperating planner: what it tells, what it leaves to others, and its next commands, as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from erecap.context import Situation
from erecap.planners.parser import is_command, shown
from erecap.untrusted import parse_json

KEYS = ("observations", "conflicts", "plan_patches")
MOST_NAMES = 4  # in `observations` and in `conflicts`


@dataclass(frozen=True)
class Answer:
    """One contribution."""

    observations: tuple[str, ...]  # subjects of what it saw, whose newest observation all are told
    conflicts: tuple[str, ...]  # things that others have planned for and that it leaves to them
    patches: tuple[str, ...]  # commands of its robot

    def text(self) -> str:
        """The answer as a planner writes it: one line of JSON without spaces."""
        values = (self.observations, self.conflicts, self.patches)
        return as_json({key: list(value) for key, value in zip(KEYS, values, strict=True)})


def as_json(value: object) -> str:
    """JSON as the grammar allows it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_answer(
    text: str, facts: Collection[str], contested: Collection[str], situation: Situation, max_steps: int
) -> Answer | str:
    """The answer that `text` states, or what is wrong with it. Never raises for any text.

    Args:
        facts: subjects that may be told.
        contested: things that may be named under `conflicts`.
        situation: what the planner may command.
        max_steps: most commands.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        return f"the answer is no JSON: {error}"
    if not isinstance(value, dict) or sorted(value) != sorted(KEYS):
        return f"the answer is no object with the keys {', '.join(KEYS)}"
    lists = [value[key] for key in KEYS]
    for key, items in zip(KEYS, lists, strict=True):
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            return f"{key} is no list of texts"
    told, left = (tuple(dict.fromkeys(items)) for items in lists[:2])
    for key, names, known in (("observations", told, facts), ("conflicts", left, contested)):
        strange = next((name for name in names if name not in known), None)
        if strange is not None:
            return f"{key}: {shown(strange)} is none of: {', '.join(known) or 'nothing'}"
        if len(names) > MOST_NAMES:
            return f"{key}: {len(names)} names; at most {MOST_NAMES} are allowed"
    return _with_commands(told, left, lists[2], situation, max_steps)


def _with_commands(
    told: tuple[str, ...], left: tuple[str, ...], patches: Sequence[str], situation: Situation, max_steps: int
) -> Answer | str:
    if not 1 <= len(patches) <= max_steps:
        return f"plan_patches has {len(patches)} commands; allowed: 1 to {max_steps}"
    for number, command in enumerate(patches, start=1):
        if not is_command(command, situation):
            return f"plan_patches: command {number} is not a known command: {shown(command)}"
    return Answer(told, left, tuple(patches))
