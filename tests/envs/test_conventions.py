"""Resets and steps by the conventions of gymnasium, for every environment that is registered here."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import erecap.envs.episodes as room
from erecap.config.suite import Suite
from erecap.envs import make_env
from erecap.envs.disturbances import Disturbances
from erecap.envs.episodes import Ending, Episodes
from erecap.envs.habitat.client import VARIABLE
from erecap.errors import ConfigError
from tests.envs.habitat.playing import interpreter
from tests.envs.habitat.simulator import has_habitat
from tests.envs.test_disturbances import Counter

OPTIONS: dict[str, dict[str, Any]] = {
    "babyai": {"level": "BabyAI-GoToObj-v0"},
    "habitat": {"rooms": [3, 3], "objects": 6, "tasks": ["pointnav", "fetch"]},
    "household": {"split": "train"},
    "pyrobosim": {"robots": 2, "failures": 0.2},
}


@pytest.fixture(params=OPTIONS)
def suite(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    if request.param == "habitat" and not has_habitat():
        monkeypatch.setenv(VARIABLE, str(interpreter(tmp_path)))
    values = {"name": "small", "env": request.param, "options": OPTIONS[request.param]}
    return Suite.model_validate({**values, "episodes": 3, "seed": 3, "horizon": 3})


def test_doctest() -> None:
    assert doctest.testmod(room).failed == 0


@pytest.mark.parametrize("named", [3, -1, "0", 1.0, True, [1], float("nan"), 10**30])
def test_numbers_that_no_episode_has(named: Any) -> None:
    with pytest.raises(ConfigError, match="allowed: a whole number from 0 to 2") as caught:
        Episodes(3).begin(None, {"episode": named})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [5, "episode", ["episode"], [("episode", 1)], True])
def test_options_that_are_no_mapping(options: Any) -> None:
    with pytest.raises(ConfigError, match=r"options: got .*; allowed: a mapping such as \{'episode'"):
        Episodes(3).begin(None, options)


def test_numbers_of_numpy_are_numbers() -> None:
    episodes = Episodes(3)
    assert [episodes.begin(None, {"episode": np.int64(2)}), episodes.begin(None, {"episode": None})] == [2, 0]


@pytest.mark.integration
class TestEnvironments:
    def test_the_checker_of_gymnasium(self, suite: Suite) -> None:
        env = make_env(suite)
        check_env(env, skip_render_check=True)
        check_env(env.unwrapped, skip_render_check=True)
        env.close()

    def test_reset_goes_on_to_the_next_episode(self, suite: Suite) -> None:
        env = make_env(suite)
        first = [env.reset()[0] for _ in range(4)]
        assert [env.unwrapped.episode] == [0] and first[3] == first[0]  # type: ignore[attr-defined]
        assert len(set(first[:3])) > 1
        by_number = [env.reset(options={"episode": number})[0] for number in range(3)]
        assert by_number == first[:3] and env.reset()[0] == first[0]
        assert env.reset(options={"episode": 1})[0] == first[1] and env.reset(options={})[0] == first[2]
        env.close()

    def test_seeds_decide(self, suite: Suite) -> None:
        env, other = make_env(suite), make_env(suite)
        other.reset()
        for seed in (0, 7):
            series = [env.reset(seed=seed)[0], *(env.reset()[0] for _ in range(2))]
            assert [other.reset(seed=seed)[0], *(other.reset()[0] for _ in range(2))] == series
        assert len({env.reset(seed=seed)[0] for seed in range(12)}) > 1
        env.close()
        other.close()

    @pytest.mark.parametrize("action", [None, 3, b"look", ["look"], {"go": 1}])
    def test_what_is_no_command(self, suite: Suite, action: Any) -> None:
        env = make_env(suite)
        before = env.reset(seed=1)[1]
        for step in (env.step, env.unwrapped.step):
            with pytest.raises(InvalidAction, match=r"step: got .*; allowed: a command as text") as caught:
                step(action)
            assert "\n" not in str(caught.value)
        assert env.step("fly")[4]["skills"] == before["skills"]
        env.close()

    def test_steps_where_there_is_no_episode(self, suite: Suite) -> None:
        env = make_env(suite)
        with pytest.raises(ResetNeeded, match="no episode has begun"):
            env.step("look")
        with pytest.raises(ConfigError):
            env.reset(options={"episode": 9})
        with pytest.raises(ResetNeeded, match="no episode has begun"):
            env.step("look")
        env.reset()
        assert [env.step("fly")[3] for _ in range(3)] == [False, False, True]
        with pytest.raises(ResetNeeded, match=r"the episode is over; call reset\(\) first"):
            env.step("fly")
        env.reset()
        env.step("fly")
        env.close()


def test_after_success_there_is_nothing_to_do() -> None:
    env = Ending(Counter())
    env.reset()
    assert [env.step("win")[2] for _ in range(3)] == [False, False, True]
    with pytest.raises(ResetNeeded, match="over"):
        env.step("win")


def test_a_closed_environment_is_used_no_more() -> None:
    env = Ending(Counter())
    env.reset()
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step("look")):
        with pytest.raises(ClosedEnvironmentError, match="the environment is closed; make another one"):
            call()


def test_disturbances_follow_the_episode_that_the_environment_goes_on_to() -> None:
    class Numbered(Counter):
        numbers, episode = Episodes(2), 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.episode = self.numbers.begin(seed, options)
            return super().reset(seed=seed, options=options)

    def events(env: gym.Env[str, str], **reset: Any) -> list[Any]:
        env.reset(**reset)
        return [env.step("wait")[4]["events"] for _ in range(60)]

    env = Disturbances(Numbered(), slip=0.4, seed=5)
    named = [events(env, seed=5, options={"episode": number}) for number in range(2)]
    assert named[0] != named[1]
    assert [events(env, seed=5), events(env), events(env)] == [*named, named[0]]
