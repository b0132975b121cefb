"""Skills: their effects, reasons of refusal, and that every offered skill can be carried out."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.world_object import Ball, Box, Door, Key

from erecap.envs.babyai import paths
from tests.envs.babyai.levels import RIGHT, UP, body, drawn, room, two_rooms
from tests.envs.babyai.test_describe import LEVEL_NAMES

pytestmark = pytest.mark.integration


def test_go_to_takes_the_shortest_way_and_counts_cells():
    agent = body(room({(4, 2): Ball("red")}, at=(1, 6), facing=UP))
    assert agent.perform("go to red ball").text == "You are at the red ball."
    assert paths.front(agent.pose) == (4, 2)
    assert agent.travelled == 6  # 3 columns and 4 rows away, the last step being the ball's own cell


def test_pick_up_drop_and_put_next_to():
    things = {(1, 3): Ball("red"), (4, 1): Key("blue"), (1, 2): Box("grey")}
    agent = body(room(things, at=(1, 6), facing=UP))
    ball = agent.memory.find("red ball")
    assert agent.perform("Pick up the red ball.").failure == ""
    assert agent.level.carrying is ball and agent.touched == {ball}
    said = agent.perform("put the red ball next to the blue key").text
    assert said == "You put the red ball next to the blue key."
    x, y = ball.cur_pos
    assert abs(x - 4) + abs(y - 1) == 1 and agent.level.carrying is None
    agent.perform("pick up grey box")
    assert agent.perform("drop").text == "You drop the grey box."
    assert agent.level.carrying is None


def test_open_and_close_and_the_way_through():
    agent = body(two_rooms(Door("green"), {(6, 3): Ball("red")}))
    assert "go to red ball" not in agent.skills() and "close green door" not in agent.skills()
    assert agent.perform("open green door").text == "You open the green door."
    assert {"close green door", "go to red ball", "pick up red ball"} <= set(agent.skills())
    agent.perform("go to red ball")
    assert agent.cell == (5, 3)
    assert agent.perform("close green door").failure == ""
    assert "open green door" in agent.skills()


def test_a_locked_door_takes_its_key():
    agent = body(two_rooms(Door("blue", is_locked=True), {(3, 5): Key("blue"), (3, 4): Key("red")}))
    said = "the blue door is locked, and you do not carry a blue key"
    assert agent.perform("open blue door").failure == said
    agent.perform("pick up red key")
    assert "open blue door" not in agent.skills()
    agent.perform("drop")
    agent.perform("explore")
    agent.perform("pick up blue key")
    assert "open blue door" in agent.skills()
    assert agent.perform("open blue door").failure == ""


def test_explore_ends_when_something_new_comes_into_view_and_when_all_is_seen():
    agent = body(room({(6, 6): Ball("red")}, at=(1, 1), facing=UP))
    assert agent.entities()["object"] == []
    assert agent.perform("explore").text == "You explore until something new comes into view."
    assert agent.entities()["object"] == ["red ball"]
    while "explore" in agent.skills():
        agent.perform("explore")
    assert agent.perform("explore").failure == "you have seen all that can be reached through open doors"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("go to green box", "you have seen no green box"),
        ("pick up grey door", "a door cannot be carried"),
        ("open red ball", "the red ball is not a door"),
        ("open grey door", "the grey door is open already"),
        ("drop", "you carry nothing"),
        ("put red ball next to blue key", "you do not carry the red ball"),
        ("dance", "no such command"),
        ("go to", "no such command"),
    ],
)
def test_reasons_with_free_hands(command: str, reason: str):
    agent = body(two_rooms(Door("grey", is_open=True), {(3, 3): Ball("red"), (3, 2): Key("blue")}))
    before = (agent.pose, agent.skills())
    assert agent.perform(command).failure == reason
    assert (agent.pose, agent.skills()) == before and agent.travelled == 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("pick up red ball", "you carry the red ball already"),
        ("pick up blue key", "you carry the red ball"),
        ("go to red ball", "you carry the red ball"),
        ("put red ball next to red ball", "nothing can lie next to itself"),
        ("close grey door", "the grey door is closed already"),
    ],
)
def test_reasons_with_full_hands(command: str, reason: str):
    agent = body(two_rooms(Door("grey"), {(3, 3): Ball("red"), (3, 2): Key("blue")}))
    agent.perform("pick up red ball")
    agent.level.agent_pos, agent.level.agent_dir = (2, 3), RIGHT
    agent.memory.update(agent.level)
    assert agent.perform(command).failure == reason


def test_something_that_moved_out_of_sight_is_found_missing():
    level = room({(3, 2): Ball("red")}, at=(3, 6), facing=UP)
    agent = body(level)
    level.agent_dir = RIGHT
    level.grid.set(3, 2, None)
    level.grid.set(1, 6, Ball("grey"))
    outcome = agent.perform("pick up red ball")
    assert outcome.failure == "the red ball is no longer where you saw it"
    assert outcome.text == "You cannot pick up red ball: the red ball is no longer where you saw it."
    assert "pick up red ball" not in agent.skills() and "red ball" in agent.entities()["item"]


def test_something_that_moved_within_sight_is_followed():
    level = room({(3, 2): Ball("red")}, at=(3, 6), facing=UP)
    agent = body(level)
    ball = agent.memory.find("red ball")
    level.grid.set(3, 2, None)
    level.grid.set(5, 2, ball)
    assert agent.perform("pick up red ball").failure == ""
    assert level.carrying is ball


def test_things_in_the_way_leave_no_open_way():
    wall = {(1, 4): Box("grey"), (2, 5): Box("blue"), (3, 6): Box("green"), (2, 3): Ball("red")}
    agent = body(room({**wall, (3, 5): Box("red"), (2, 4): Box("yellow")}, at=(1, 6), facing=UP))
    assert "go to red ball" not in agent.skills()
    assert agent.perform("go to red ball").failure == "there is no open way to the red ball"


def test_the_cap_on_moves():
    agent = body(room({(3, 2): Ball("red")}, at=(3, 6), facing=UP), skill_steps=2)
    assert agent.perform("go to red ball").failure == "you stopped after 2 moves without getting there"
    assert agent.cell == (3, 4)
    assert agent.perform("go to red ball").failure == ""


def test_what_is_put_down_bars_no_doorway():
    agent = body(two_rooms(Door("green", is_open=True), {(3, 2): Ball("red")}))
    agent.perform("pick up red ball")
    agent.level.agent_pos, agent.level.agent_dir = (4, 3), RIGHT  # in the doorway, looking into the next room
    agent.memory.update(agent.level)
    assert agent.perform("drop").failure == ""
    assert agent.memory.places[agent.memory.find("red ball")] not in ((3, 3), (5, 3))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(LEVEL_NAMES, st.integers(0, 30), st.lists(st.integers(0, 40), max_size=6))
def test_all_that_is_offered_can_be_carried_out(name: str, seed: int, choices: list[int]):
    agent = body(drawn(name, seed))
    for choice in choices:
        if agent.success:
            break
        agent.perform(agent.skills()[choice % len(agent.skills())])
    for command in [] if agent.success else agent.skills():
        outcome = copy.deepcopy(agent).perform(command)
        assert outcome.failure == "", (command, outcome)
