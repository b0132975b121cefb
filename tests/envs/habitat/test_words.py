"""Commands, directions and measures: by their examples, and by hand."""

from __future__ import annotations

import doctest
import math

import pytest

from erecap.envs import words
from erecap.envs.habitat import commands, directions, metrics
from erecap.envs.habitat.commands import Command, parse
from erecap.envs.habitat.directions import Pose
from erecap.envs.habitat.metrics import measure, path_weight


@pytest.mark.parametrize("module", [words, commands, directions, metrics], ids=lambda module: module.__name__)
def test_examples(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("look", Command("look", ())),
        ("Look around.", Command("look", ())),
        ("explore frontier 12", Command("explore", ("frontier 12",))),
        ("put red cup on white table 2", Command("put", ("red cup", "white table 2"))),
        ("stop", Command("stop", ())),
        ("stop here", None),
        ("fly to the moon", None),
    ],
)
def test_commands(text: str, command: Command | None) -> None:
    assert parse(text) == command


def test_directions_turn_with_the_robot() -> None:
    north, west = Pose((1.0, 0.0, 1.0), 0.0), Pose((1.0, 0.0, 1.0), 90.0)
    ahead_of_north = (1.0, 0.0, -2.0)
    assert north.bearing(ahead_of_north) == pytest.approx(0.0) and west.bearing(ahead_of_north) == pytest.approx(-90.0)
    assert north.words(ahead_of_north) == "3.0 m ahead" and west.words(ahead_of_north) == "3.0 m right"
    assert west.words((-1.0, 0.0, 1.0)) == "2.0 m ahead" and west.words((3.0, 0.0, 1.0)) == "2.0 m behind"


@pytest.mark.parametrize(
    ("episode", "success", "spl", "soft_spl"),
    [
        # On the shortest way, to the goal itself.
        ({"start": 5.0, "end": 0.0, "path": 5.0, "stopped": True}, 1.0, 1.0, 1.0),
        # Twice the shortest way; 0.1 of 5 m are left.
        ({"start": 5.0, "end": 0.1, "path": 10.0, "stopped": True}, 1.0, 0.5, 0.98 * 0.5),
        # A path shorter than the geodesic distance counts as the shortest one.
        ({"start": 5.0, "end": 0.1, "path": 4.9, "stopped": True}, 1.0, 1.0, 0.98),
        # Near enough, but it did not say so.
        ({"start": 5.0, "end": 0.1, "path": 5.0, "stopped": False}, 0.0, 0.0, 0.98),
        # It said so where the goal is not; half of the way is left.
        ({"start": 8.0, "end": 4.0, "path": 16.0, "stopped": True}, 0.0, 0.0, 0.5 * 0.5),
        # Exactly at the success distance is not within it, as in habitat-lab.
        ({"start": 5.0, "end": 0.2, "path": 5.0, "stopped": True}, 0.0, 0.0, 0.96),
        # Farther away than at the start: nothing is left of the soft measure.
        ({"start": 2.0, "end": 3.0, "path": 1.0, "stopped": True}, 0.0, 0.0, 0.0),
        ({"start": 2.0, "end": math.inf, "path": 1.0, "stopped": True}, 0.0, 0.0, 0.0),
        # At the goal from the start.
        ({"start": 0.0, "end": 0.0, "path": 0.0, "stopped": True}, 1.0, 1.0, 1.0),
    ],
)
def test_measures_by_hand(episode: dict, success: float, spl: float, soft_spl: float) -> None:
    found = measure(within=0.2, **episode)
    assert (found.success, found.distance_to_goal) == (success, episode["end"])
    assert found.spl == pytest.approx(spl) and found.soft_spl == pytest.approx(soft_spl)


def test_the_weight_of_a_path() -> None:
    assert path_weight(4.0, 8.0) == 0.5 and path_weight(4.0, 2.0) == 1.0 and path_weight(0.0, 3.0) == 0.0
