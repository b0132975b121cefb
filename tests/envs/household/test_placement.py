"""Drawn games, before any engine sees them: deterministic, possible, and not yet done."""

import json
import random

import pytest

from erecap.envs.household.data.gamefile import problem_text
from erecap.envs.household.data.placement import LOOK, PICK_TWO, TREATMENTS, can_hold, draw, goals_of
from erecap.envs.household.data.rooms import load_room, room_numbers
from erecap.envs.household.games import generate as generation
from erecap.envs.household.options import SPLITS, TASK_TYPES
from erecap.errors import GameError


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_is_possible_not_yet_done_and_repeatable(split, task_type):
    for number in range(8):
        placement = draw(split, task_type, 30, random.Random(f"{split}{number}"))
        again = draw(split, task_type, 30, random.Random(f"{split}{number}"))
        assert placement == again and placement is not None
        assert problem_text(placement) == problem_text(again)
        assert placement.room.number in room_numbers(split)
        homes = {receptacle.id: receptacle.kind for receptacle in placement.room.receptacles}
        movable = [item for item in placement.items if item.kind != "DeskLamp"]
        assert all(can_hold(homes[item.receptacle], item.kind) for item in movable)
        assert len(movable) <= 30
        targets = [item for item in movable if item.kind == placement.target]
        assert len(targets) >= (2 if task_type == PICK_TWO else 1)
        assert all(homes[item.receptacle] != placement.parent for item in targets)
        assert placement.target.lower() in placement.sentence
        if task_type == LOOK:
            assert any(item.kind == placement.toggle == "DeskLamp" for item in placement.items)
        else:
            assert can_hold(placement.parent, placement.target) and placement.parent in homes.values()
        if task_type in TREATMENTS:
            assert TREATMENTS[task_type][1] in homes.values()
            assert TREATMENTS[task_type][1] != placement.parent


def test_draws_differ_by_their_stream():
    drawn = {problem_text(draw("train", TASK_TYPES[0], 30, random.Random(i))) for i in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize("split", ["train", "unseen"])
def test_each_task_type_has_several_rooms_in_each_split(split, task_type):
    assert sum(bool(goals_of(load_room(number), task_type)) for number in room_numbers(split)) >= 5


def test_the_number_of_objects_is_limited():
    placement = draw("train", "pick_and_place_simple", 6, random.Random(3))
    assert len([item for item in placement.items if item.kind != "DeskLamp"]) <= 6


@pytest.mark.integration  # opens an engine
def test_games_that_the_expert_loses_are_dropped_drawn_again_and_counted(monkeypatch, tmp_path):
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path))
    answers = iter([None, None, ["look"]])
    tried = []

    def lose_twice(placement, engine):
        tried.append(placement)
        return next(answers)

    monkeypatch.setattr(generation, "play_expert", lose_twice)
    report = generation.generate("train", 0, 1)
    assert (report.dropped, report.expert_steps, len(set(tried))) == (2, (1,), 3)
    assert json.loads(report.manifest.read_text())["dropped"] == 2

    monkeypatch.setattr(generation, "play_expert", lambda placement, engine: None)
    with pytest.raises(GameError, match="no winnable look_at_obj_in_light game in 60 draws"):
        generation.generate("train", 0, 2)
    assert [path.name for path in report.manifest.parent.iterdir() if path.name != "manifest.json"] == ["0"]
