"""Draws of episodes: the first one that is won, found once; refused in one line where there is none."""

from __future__ import annotations

import doctest

import pytest

import erecap.envs.commands as commands
import erecap.envs.draws as room
from erecap.envs.draws import Draws, UselessDraw, Won
from erecap.errors import GameError


@pytest.mark.parametrize("module", [commands, room], ids=lambda module: module.__name__)
def test_doctest(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_each_episode_is_drawn_once() -> None:
    asked: list[tuple[int, int, int]] = []

    def play(*which: int) -> tuple[int, float]:
        asked.append(which)
        if which[2] < which[1]:
            raise UselessDraw("lost")
        return which[0], 0.5

    draws = Draws(play)
    assert [draws.find(7, 0), draws.find(7, 1), draws.find(8, 1), draws.find(7, 1)] == [
        Won(0, 7, 0.5), Won(1, 7, 0.5), Won(1, 8, 0.5), Won(1, 7, 0.5),
    ]  # fmt: skip
    assert asked == [(7, 0, 0), (7, 1, 0), (7, 1, 1), (8, 1, 0), (8, 1, 1)] and draws.rejected == 2


def test_the_last_draw_says_why_there_is_none() -> None:
    def play(seed: int, episode: int, draw: int) -> tuple[int, float]:
        raise UselessDraw(f"draw {draw} is lost")

    for most, said in ((1, "draw 0 is lost"), (3, "draw 2 is lost; so ended the last of 3 draws")):
        draws = Draws(play, most)
        with pytest.raises(GameError) as caught:
            draws.find(1, 2)
        assert str(caught.value) == said and not isinstance(caught.value, UselessDraw) and draws.rejected == most
