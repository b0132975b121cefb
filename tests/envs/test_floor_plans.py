"""Floor plans: each in one split, and all rooms joined."""

from __future__ import annotations

import random

import pytest

from erecap.envs.floor_plans import draw_layout
from erecap.errors import GameError


def test_no_floor_plan_is_in_both_splits() -> None:
    plans = {
        split: {draw_layout(split, 4 + n % 3, random.Random(f"{split} {n}")) for n in range(180)}
        for split in ("train", "unseen")
    }
    assert not plans["train"] & plans["unseen"]
    assert len(plans["train"]) > 40 and len(plans["unseen"]) > 20
    assert {plan.split for plan in plans["unseen"]} == {"unseen"}


def test_every_room_of_a_floor_plan_can_be_reached() -> None:
    for number in range(30):
        plan = draw_layout("train", 6, random.Random(number))
        reached, before = {0}, 0
        while len(reached) > before:
            before = len(reached)
            reached |= {room for pair in plan.hallways if reached & set(pair) for room in pair}
        assert len(reached) == len(plan.cells) == 6


def test_a_split_without_floor_plans_is_refused() -> None:
    with pytest.raises(GameError, match="no floor plan of split neither in 200 draws with 4 rooms"):
        draw_layout("neither", 4, random.Random(0))
