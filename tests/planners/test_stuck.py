"""Ways out of loops: the commands that a plan may begin with when nothing new is learned."""

from __future__ import annotations

import pytest

from erecap.context import Context, Situation
from erecap.errors import ConfigError
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.llm import LLMPlanner
from erecap.planners.stuck import least_tried
from tests.context.small_tokenizers import byte_level

ROOMS = ("go to room 1", "go to room 2", "go to room 3", "take the mug")


def went(context: Context, command: str, seen: str, failed: bool = False) -> None:
    context.add("action", command)
    context.add("failure" if failed else "observation", seen)


def searched() -> Context:
    context = Context("find the mug", ("go to {room}",))
    for number in (1, 2):
        went(context, f"go to room {number}", f"room {number} is empty")
    return context


def test_free_as_long_as_there_is_news() -> None:
    assert least_tried(searched().records, ROOMS, 1) == ROOMS


def test_a_loop_leads_to_what_was_not_tried() -> None:
    context = searched()
    went(context, "go to room 1", "room 1 is empty")
    assert least_tried(context.records, ROOMS, 2) == ROOMS
    assert least_tried(context.records, ROOMS, 1) == ("go to room 3", "take the mug")
    went(context, "go to room 2", "room 2 is empty")
    assert least_tried(context.records, ROOMS, 2) == ("go to room 3", "take the mug")
    went(context, "go to room 3", "a mug is in room 3")
    assert least_tried(context.records, ROOMS, 1) == ROOMS


def test_what_failed_may_be_tried_again_and_is_no_news() -> None:
    context = searched()
    went(context, "go to room 1", "room 1 is empty")
    went(context, "take the mug", "the action slipped", failed=True)
    assert least_tried(context.records, ROOMS, 1) == ("go to room 3", "take the mug")
    went(context, "go to room 3", "a mug is in room 3")
    went(context, "take the mug", "the action slipped", failed=True)
    assert least_tried(context.records, ROOMS, 1) == ROOMS


def test_where_all_was_tried_the_rarest_is_left() -> None:
    context = searched()
    went(context, "go to room 1", "room 1 is empty")
    assert least_tried(context.records, ROOMS[:2], 1) == ROOMS[1:2]
    went(context, "go to room 2", "room 2 is empty")
    assert least_tried(context.records, ROOMS[:2], 1) == ROOMS[:2]
    assert least_tried(context.records, (), 1) == ()


def test_a_new_goal_begins_anew() -> None:
    context = searched()
    went(context, "go to room 1", "room 1 is empty")
    context.add("goal", "find the cup")
    went(context, "go to room 1", "room 1 is empty")
    assert least_tried(context.records, ROOMS, 1) == ROOMS


def test_the_planner_decodes_nothing_else_first() -> None:
    model = ScriptedModel(["go to room 1\ngo to room 2"] * 2, tokenizer=byte_level())
    context = searched()
    went(context, "go to room 1", "room 1 is empty")
    context.situation = Situation(ROOMS[:3], {"room": ("room 1", "room 2")}, ("go to {room}",))
    assert LLMPlanner(model).plan(context).steps[0] == "go to room 1"
    assert LLMPlanner(model, stuck_after=2).plan(context).steps[0] == "go to room 1"
    model = ScriptedModel(["go to room 1"], tokenizer=byte_level())
    assert LLMPlanner(model, stuck_after=1).plan(context).steps == ("go to room 3",)


def test_limits() -> None:
    with pytest.raises(ConfigError, match="stuck_after is 0"):
        LLMPlanner(ScriptedModel([""]), stuck_after=0)
    with pytest.raises(ConfigError, match="with a model with a tokenizer"):
        LLMPlanner(ScriptedModel([""]), stuck_after=2)
    with pytest.raises(ConfigError, match="with constrained"):
        LLMPlanner(ScriptedModel([""]), constrained=False, stuck_after=2)
