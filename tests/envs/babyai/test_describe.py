"""The describer: golden cases, and that it holds for any state whatever."""

from __future__ import annotations

import copy
import doctest
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.world_object import Ball, Box, Door, Key

import erecap.envs.babyai.describe as module
from erecap.envs.babyai.describe import describe
from tests.envs.babyai.levels import DOWN, LEFT, RIGHT, UP, body, drawn, room, two_rooms

pytestmark = pytest.mark.integration


def seen(level) -> str:
    return describe(level, body(level).memory.names)


def test_doctest():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("at", "facing", "said"),
    [
        ((4, 6), UP, "You see a red ball, 3 steps ahead and 1 to the left; a blue key, 5 steps ahead. "),
        ((4, 3), LEFT, "You see a red ball, 1 step ahead; a blue key, 2 steps to the right. "),
        ((1, 1), RIGHT, "You see a blue key, 3 steps ahead; a red ball, 2 steps ahead and 2 to the right. "),
        ((3, 2), DOWN, "You see a red ball, 1 step ahead. "),
        ((6, 6), DOWN, "You see only floor and walls. "),
    ],
)
def test_from_where_the_agent_stands(at, facing: int, said: str):
    level = room({(3, 3): Ball("red"), (4, 1): Key("blue")}, at, facing)
    assert seen(level) == said + "You carry nothing."


@pytest.mark.parametrize(
    ("door", "said"),
    [
        (Door("green"), "You see a closed green door, 2 steps ahead. You carry nothing."),
        (Door("grey", is_locked=True), "You see a locked grey door, 2 steps ahead. You carry nothing."),
        (
            Door("green", is_open=True),
            "You see an open green door, 2 steps ahead; a yellow box, 4 steps ahead. You carry nothing.",
        ),
    ],
)
def test_doors_hide_what_is_behind_them_until_they_are_open(door: Door, said: str):
    assert seen(two_rooms(door, {(6, 3): Box("yellow")})) == said


def test_standing_in_a_door_and_carrying():
    level = two_rooms(Door("red", is_open=True), {(3, 3): Key("blue")})
    agent = body(level)
    agent.perform("pick up blue key")
    for _ in range(2):
        level.step(level.actions.forward)
    agent.memory.update(level)
    said = "You see only floor and walls. You stand in the red door. You carry the blue key."
    assert describe(level, agent.memory.names) == said


def test_of_two_alike_the_nearer_is_named_first_and_names_stay():
    balls = {cell: Ball("red") for cell in ((1, 2), (1, 4), (3, 6))}
    level = room(balls, at=(1, 6), facing=UP)
    agent = body(level)
    assert describe(level, agent.memory.names) == (
        "You see a red ball, 2 steps to the right; a red ball 2, 2 steps ahead; "
        "a red ball 3, 4 steps ahead. You carry nothing."
    )
    level.agent_pos, level.agent_dir = (1, 1), DOWN
    agent.memory.update(level)
    said = describe(level, agent.memory.names)
    assert said.startswith("You see a red ball 3, 1 step ahead; a red ball 2, 3 steps ahead; ")


MOVES = st.lists(st.integers(0, 5), max_size=60)
LEVEL_NAMES = st.sampled_from(["GoToLocal", "UnlockPickupDist", "MiniBossLevel", "SynthS5R2", "KeyCorridorS3R3"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LEVEL_NAMES, st.integers(0, 50), MOVES)
def test_any_state_is_described_and_always_the_same_way(name: str, seed: int, moves: list[int]):
    level = drawn(name, seed)
    agent = body(level)
    for move in moves:
        level.step(move)
        agent.memory.update(level)
    text = describe(level, agent.memory.names)
    assert describe(level, agent.memory.names) == text
    other = copy.deepcopy(agent)
    assert describe(other.level, other.memory.names) == text
    assert set(text) <= set(string.printable) and "\n" not in text
    assert text.startswith("You see ") and text.endswith(".") and "You carry " in text
    assert len(set(agent.memory.names.values())) == len(agent.memory.names)
