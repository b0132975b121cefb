"""The disturbances wrapper on a counter that takes commands: rates, pairing, seeds, refusals."""

from __future__ import annotations

import doctest

import gymnasium as gym
import numpy as np
import pytest

import erecap.envs.disturbances as room
from erecap.envs.disturbances import Disturbances
from erecap.errors import ConfigError


class Counter(gym.Env[str, str]):
    """Counts the commands that reached it; one thing in it can move."""

    def __init__(self) -> None:
        self.place = 0.0

    def reset(self, *, seed=None, options=None):
        self.count, self.place = 0, 0.0
        return self.observe_again()

    def observe_again(self):
        info = {"failed": False, "failure": "", "events": [], "count": self.count, "place": self.place}
        return f"{self.count} commands", info

    def step(self, action):
        self.count += 1
        observation, info = self.observe_again()
        return observation, 1.0, self.count == 3 and action == "win", False, info

    def move_untouched(self, rng: np.random.Generator) -> str | None:
        self.place = rng.random()
        return "thing"


def events(env: gym.Env[str, str], steps: int, command: str = "wait", **reset) -> list[tuple[str, ...]]:
    env.reset(**reset)
    return [tuple(env.step(command)[4]["events"]) for _ in range(steps)]


def test_doctest():
    assert doctest.testmod(room).failed == 0


def test_no_disturbance_changes_nothing():
    env = Disturbances(Counter())
    env.reset(seed=1)
    assert env.step("wait") == ("1 commands", 1.0, False, False, env.unwrapped.observe_again()[1])


def test_a_slip_is_a_failed_step_that_does_not_reach_the_environment():
    env = Disturbances(Counter(), slip=1.0)
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step("win")
    assert (reward, terminated, truncated, info["count"]) == (0.0, False, False, 0)
    assert info["failed"] and info["failure"] == "The action slipped, nothing happens." and info["events"] == ["slip"]
    assert observation == info["failure"]


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.9])
@pytest.mark.parametrize("kind", ["slip", "move"])
def test_rates(kind: str, rate: float):
    steps = 4000
    struck = sum(kind in e for e in events(Disturbances(Counter(), **{kind: rate}), steps, seed=5))
    # Four standard deviations of a binomial count: the seed is fixed, so this fails for good or never.
    assert abs(struck - rate * steps) < 4 * (steps * rate * (1 - rate)) ** 0.5


def test_paired_whatever_is_done_and_whatever_was_played_before():
    env = Disturbances(Counter(), slip=0.3, move=0.3)
    first = events(env, 200, "wait", seed=3, options={"episode": 2})
    events(env, 7, "wait", seed=9)
    assert events(env, 200, "something else", seed=3, options={"episode": 2}) == first
    again = Disturbances(Counter(), slip=0.3, move=0.3, seed=3)
    assert events(again, 200, options={"episode": 2}) == first


def test_seeds_and_episodes_differ():
    env = Disturbances(Counter(), slip=0.3, move=0.3)
    runs = [events(env, 100, seed=s, options={"episode": e}) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(run) for run in runs}) == 4


def test_one_rate_does_not_shift_the_other():
    both = events(Disturbances(Counter(), slip=0.3, move=0.5), 200, seed=1)
    alone = events(Disturbances(Counter(), slip=0.3), 200, seed=1)
    assert [("slip" in e) for e in both] == [("slip" in e) for e in alone]


def test_a_move_comes_before_the_command_and_is_paired():
    places = []
    for slip in (0.0, 1.0):
        env = Disturbances(Counter(), move=1.0, slip=slip)
        env.reset(seed=4)
        info = env.step("wait")[4]
        assert info["events"] == (["move", "slip"] if slip else ["move"])
        places.append(info["place"])
    assert places[0] == places[1] > 0


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"slip": 1.5}, "disturbances.slip: got 1.5; allowed: a probability from 0 to 1"),
        ({"move": -0.1}, "disturbances.move: got -0.1; allowed: a probability from 0 to 1"),
    ],
)
def test_rates_outside_0_to_1_are_refused(rates: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        Disturbances(Counter(), **rates)


def test_move_needs_an_environment_that_can_move_things():
    class Fixed(gym.Env[str, str]):
        pass

    Disturbances(Fixed(), move=0.0)
    with pytest.raises(ConfigError, match=r"move: got 0\.1; allowed: 0, because Fixed has no method"):
        Disturbances(Fixed(), move=0.1)


class Timed(Counter):
    """A counter with a clock: a command takes `pace` seconds. It knows when things moved and doors closed."""

    seconds = 0.0
    pace = 1.0

    def reset(self, *, seed=None, options=None):
        self.seconds, self.log = 0.0, []
        return super().reset(seed=seed, options=options)

    def observe_again(self):
        text, info = super().observe_again()
        return text, {**info, "subject": "", "changes": len(self.log)}

    def step(self, action):
        self.seconds += self.pace
        *step, info = super().step(action)
        return *step, {**info, "trail": {"agent": [(self.count, 0.0)]}}

    def advance(self, seconds):
        self.seconds += seconds
        return False, self.observe_again()[1]

    def move_untouched(self, rng):
        self.log.append(("move", rng.random()))
        return super().move_untouched(rng)

    def close_door(self, rng):
        self.log.append(("close", rng.random()))
        return "door"


def happened(env: Disturbances, pace: float, waits: float, until: float = 600.0) -> list[tuple[str, float]]:
    env.reset(seed=6, options={"episode": 1})
    env.unwrapped.pace = pace
    told = []
    while env.unwrapped.seconds < until:
        if waits:
            env.advance(waits)
        told += env.step("wait")[4]["events"]
    assert told == [kind for kind, _ in env.unwrapped.log]
    return env.unwrapped.log


def test_disturbances_by_time_do_not_depend_on_what_is_done():
    env = Disturbances(Timed(), moves_per_minute=3.0, closings_per_minute=1.0)
    quick, slow = happened(env, 1.0, 0.0), happened(env, 4.0, 8.0)
    assert quick == slow  # both last 600 seconds
    assert happened(Disturbances(Timed(), moves_per_minute=3.0, seed=6), 1.0, 0.0) == [
        event for event in quick if event[0] == "move"
    ]
    moves = sum(kind == "move" for kind, _ in quick)
    assert abs(moves - 30) < 4 * 30**0.5 and abs(len(quick) - moves - 10) < 4 * 10**0.5


def test_a_planner_that_thinks_longer_meets_more_of_them():
    env = Disturbances(Timed(), moves_per_minute=6.0)
    counts = []
    for waits in (0.0, 30.0):
        env.reset(seed=6)
        for _ in range(10):
            env.advance(waits)
            *_, info = env.step("wait")
        counts.append(info["changes"])
    assert counts[1] > 5 * max(1, counts[0])


def test_the_info_after_a_disturbance_by_time_is_as_the_world_is_then():
    env = Disturbances(Timed(), moves_per_minute=60.0, slip=0.0)
    env.reset(seed=1)
    for _ in range(20):
        *_, info = env.step("wait")
        assert info["changes"] == len(env.unwrapped.log)
        assert env.advance(2.0)[1]["changes"] == len(env.unwrapped.log)


def test_a_disturbance_by_time_leaves_the_way_of_its_step():
    env = Disturbances(Timed(), moves_per_minute=60.0)
    env.reset(seed=1)
    shown = [env.step("wait")[4] for _ in range(20)]
    assert [info["trail"] for info in shown] == [{"agent": [(number, 0.0)]} for number in range(1, 21)]
    assert any(info["events"] for info in shown)


@pytest.mark.parametrize(
    ("made", "rates", "said"),
    [
        (Counter, {"moves_per_minute": 1.0}, r"moves_per_minute: got 1\.0; allowed: 0, because Counter has no seconds"),
        (Counter, {"closings_per_minute": 2.0}, "closings_per_minute: got 2.0; allowed: 0, because Counter has no"),
        (Timed, {"closings_per_minute": -1.0}, r"closings_per_minute: got -1\.0; allowed: at least 0"),
    ],
)
def test_disturbances_by_time_need_a_clock(made, rates: dict[str, float], said: str):
    Disturbances(made())
    with pytest.raises(ConfigError, match=said):
        Disturbances(made(), **rates)
