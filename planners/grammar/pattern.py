"""The grammar of a plan as a regular expression, for models that are asked over a network and choose tokens there.

    plan = skill (newline command){0, max_steps - 1}

The budget of tokens is no part of it, so a plan can be cut; whoever reads it counts whole lines only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from erecap.context import Situation
from erecap.planners.templates import template_parts

_SPECIAL = re.compile(r"([\\.^$*+?{}\[\]|()])")  # in every dialect; others refuse escapes of plain characters


def plan_pattern(situation: Situation, max_steps: int) -> str:
    """The expression that whole plans match: an admissible command first, then filled templates.

    Args:
        situation: its `skills` are not empty.
        max_steps: the longest plan, in commands; at least 1.
    """
    first = _any_of(_escaped(skill) for skill in situation.skills)
    later = [pattern for template in situation.templates if (pattern := _filled(template, situation)) is not None]
    if not later or max_steps == 1:
        return first
    return f"{first}(\n{_any_of(later)}){{0,{max_steps - 1}}}"


def _filled(template: str, situation: Situation) -> str | None:
    """A template with every name that can fill its slots; None where a slot has none."""
    text = ""
    for before, slot in template_parts(template):
        text += _escaped(before)
        if slot is not None:
            names = situation.entities.get(slot, ())
            if not names:
                return None
            text += _any_of(_escaped(name) for name in names)
    return text


def _any_of(patterns: Iterable[str]) -> str:
    return f"({'|'.join(dict.fromkeys(patterns))})"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
