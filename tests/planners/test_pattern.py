"""The grammar of a plan as a regular expression: plans that the parser takes, and no others."""

from __future__ import annotations

import re

import pytest

from erecap.context import Situation
from erecap.planners.grammar.pattern import plan_pattern

SITUATION = Situation(
    skills=("go to shelf 1", "open box (red)"),
    entities={"place": ("shelf 1", "box (red)"), "thing": ("cup 1",), "tool": ()},
    templates=("go to {place}", "put {thing} on {place}", "hit {place} with {tool}", "wait"),
)


@pytest.mark.parametrize(
    ("plan", "whole"),
    [
        ("go to shelf 1", True),
        ("open box (red)\nput cup 1 on box (red)\nwait", True),
        ("go to shelf 1\nwait\nwait\nwait", False),  # more than three steps
        ("put cup 1 on shelf 1", False),  # not admissible first
        ("go to shelf 1\nopen box (red)", False),  # no template
        ("go to shelf 1\nhit shelf 1 with ", False),  # no name for the slot
        ("go to shelf 1\n", False),
        ("go to shelf 12", False),
        ("go to shelf 1\nput cup 1 on box 'red'", False),
    ],
)
def test_plans(plan: str, whole: bool) -> None:
    assert bool(re.fullmatch(plan_pattern(SITUATION, 3), plan)) == whole


def test_one_step_and_no_templates() -> None:
    assert plan_pattern(SITUATION, 1) == r"(go to shelf 1|open box \(red\))"
    assert plan_pattern(Situation(skills=("a.b",)), 5) == r"(a\.b)"
