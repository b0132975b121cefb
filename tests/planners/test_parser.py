"""Strict reading of plans, and commands made from templates."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import Situation
from erecap.errors import ConfigError
from erecap.planners.parser import parse_plan
from erecap.planners.templates import fill_templates, matches
from tests.planners.situations import KITCHEN, TEMPLATES

COMMANDS = fill_templates(TEMPLATES, KITCHEN.entities)


def test_filling_templates() -> None:
    assert len(COMMANDS) == 3 + 3 + 2 * 3 + 1 and len(set(COMMANDS)) == len(COMMANDS)
    assert fill_templates(["give {object} to {person}"], {"object": ["mug 1"]}) == []
    twice = fill_templates(["put {o} on {o}"], {"o": ["a", "b"]})
    assert twice == ["put a on a", "put a on b", "put b on a", "put b on b"]
    for bad in ("open {receptacle", "open {0}", "open {a:>3}", "open {}", "open {a.b}"):
        with pytest.raises(ConfigError, match="command template"):
            fill_templates([bad], {})


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.text("xy {}", min_size=1, max_size=4), max_size=3)),
    st.lists(st.sampled_from(["go {a}", "{a}{b}", "{a} to {b} to {c}", "wait", "{b}"]), max_size=4),
    st.text("xy go", max_size=6),
)
def test_matching_agrees_with_filling(names: dict[str, list[str]], templates: list[str], other: str) -> None:
    for template in templates:
        commands = fill_templates([template], names)
        assert all(matches(command, template, names) for command in commands)
        assert matches(other, template, names) == (other in commands)


@pytest.mark.parametrize(
    "text",
    [
        "look",
        " look \n",
        "\n\nlook\n\n",
        "go to cabinet 12\nopen cabinet 12\r\ntake apple 1 from cabinet 12",
        "look\n" * 5,
    ],
)
def test_plans_that_can_be_read(text: str) -> None:
    plan = parse_plan(text, KITCHEN)
    assert plan.problem is None and plan.text == text
    assert plan.steps == tuple(line.strip() for line in text.strip().split("\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text is empty"),
        (" \n ", "the text is empty"),
        ("look\n" * 6, "6 lines; at most 5 are allowed"),
        ("look\n\nlook", "line 2 is not a known command: ''"),
        ("Look", "line 1 is not a known command: 'Look'"),
        ("go to cabinet 2", "line 1 is not a known command: 'go to cabinet 2'"),
        ("take apple 1 from mug 2", "line 1 is not"),
        ("1. look", "line 1 is not"),
        ("look\u2028look", r"'look\\u2028look'"),
        ("look " * 50, r"look lo\.\.\.'$"),
    ],
)
def test_plans_that_cannot(text: str, problem: str) -> None:
    plan = parse_plan(text, KITCHEN)
    assert plan.steps == () and plan.problem is not None
    assert re.search(problem, plan.problem)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*COMMANDS, "", "fly", "\x00", "\ud83d"])).map("\n".join)))
def test_never_raises(text: str) -> None:
    plan = parse_plan(text, KITCHEN)
    assert plan.text == text
    assert (plan.problem is None) == bool(plan.steps)
    assert all(step in COMMANDS or step in KITCHEN.skills for step in plan.steps) and len(plan.steps) <= 5
    assert plan.problem is None or (plan.problem.isprintable() and plan.problem.isascii())


def test_nothing_is_known() -> None:
    assert parse_plan("look", Situation()).problem == "line 1 is not a known command: 'look'"
