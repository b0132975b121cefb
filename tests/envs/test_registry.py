"""Every registered environment keeps the contract that the loop relies on."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import erecap.envs as envs
from erecap.config import load_suite
from erecap.envs import ENVIRONMENTS, EnvEntry, env_class, make_env, options_class
from erecap.envs.habitat.client import VARIABLE
from erecap.errors import ConfigError, EnvironmentUnavailable
from tests.envs.habitat.playing import interpreter
from tests.envs.habitat.simulator import has_habitat

SMALL: dict[str, dict[str, Any]] = {
    "babyai": {"level": ["BabyAI-UnlockPickup-v0", "BabyAI-PutNextLocal-v0"]},
    "habitat": {"tasks": ["objectnav", "fetch"], "rooms": [3, 4], "frames": "none"},
    "household": {
        "task_types": ["pick_and_place_simple", "pick_clean_then_place_in_recep"],
        "max_objects": 12,
    },
    "pyrobosim": {"tasks": ["fetch", "place"], "battery_per_metre": 1.0, "closed_doors": 0.5},
}
INFO: dict[str, type] = {
    "goal": str, "skills": list, "templates": list, "entities": dict, "subject": str, "failed": bool,
    "failure": str, "events": list, "success": bool, "progress": float, "path_length": float,
    "expert_path_length": float, "expert_steps": int, "path_unit": str,
}  # fmt: skip
OPTIONAL: dict[str, type] = {  # where an environment has them
    "map": dict,
    "trail": dict,
    "measures": dict,
    "constraints": list,
    "seconds": float,
    "waited": float,
    "out_of_time": bool,
}


@dataclass
class Rates:
    slip: float = 0.0
    move: float = 0.0
    moves_per_minute: float = 0.0
    closings_per_minute: float = 0.0


@dataclass
class SmallSuite:
    """The part of a suite that `make_env` reads."""

    env: str
    options: dict[str, Any]
    name: str = "small"
    numbers: range = range(2)
    seed: int = 3
    horizon: int = 12
    disturbances: Rates = field(default_factory=Rates)


def small(name: str, **changes: Any) -> SmallSuite:
    return SmallSuite(env=name, options=copy.deepcopy(SMALL[name]), **changes)


@pytest.fixture(params=sorted(ENVIRONMENTS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def playable(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment whose simulator is here, for habitat a small one where habitat-sim is not."""
    if name == "habitat" and not has_habitat():
        monkeypatch.setenv(VARIABLE, str(interpreter(tmp_path)))
    return name


def play(env: gym.Env[str, str], episode: int, seed: int = 3, steps: int = 8) -> list[Any]:
    """Everything that an episode shows when the last admissible command is taken each time."""
    observation, info = env.reset(seed=seed, options={"episode": episode})
    shown: list[Any] = [(observation, info)]
    while len(shown) <= steps and not info["success"]:
        observation, reward, terminated, truncated, info = env.step(info["skills"][-1])
        shown.append((observation, reward, terminated, truncated, info))
    return shown


def test_the_registry_is_light():
    code = (
        "import sys, erecap.envs as e\n"
        "for name in e.ENVIRONMENTS: e.options_class(name)\n"
        "named = {'torch', 'transformers', 'gymnasium', 'minigrid', 'textworld', 'alfworld', 'pyrobosim'}\n"
        "named |= {'habitat_sim', 'trimesh'}\n"
        "heavy = named & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_environment():
    with pytest.raises(
        ConfigError, match="'habitatt' is not an environment; allowed: babyai, habitat, household, pyrobosim"
    ):
        options_class("habitatt")


def test_bad_options_are_one_line(name: str):
    with pytest.raises(ConfigError, match=r"suite small: options\.colour: unknown key") as caught:
        make_env(SmallSuite(env=name, options={"colour": "red"}))
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    entry = EnvEntry("erecap.envs.babyai.options:BabyAIOptions", "no_such_simulator:Env", "erecap[babyai]")
    monkeypatch.setitem(envs.ENVIRONMENTS, "babyai", entry)
    with pytest.raises(EnvironmentUnavailable, match=r"'no_such_simulator'.*pip install 'erecap\[babyai\]'"):
        make_env(small("babyai"))


@pytest.mark.integration
class TestContract:
    def test_gymnasium_finds_nothing_wrong(self, playable: str):
        options = options_class(playable)(**SMALL[playable])
        env = env_class(playable)(options, seed=3, episodes=2)
        check_env(env, skip_render_check=True)
        env.close()

    def test_info_has_every_key_of_its_type(self, playable: str):
        env = make_env(small(playable))
        for *_, info in play(env, 0):
            assert {key: type(info[key]) for key in INFO} == INFO
            assert set(info) - set(OPTIONAL) == set(INFO)  # so no expert_actions unless asked for
            assert all(type(info[key]) is kind for key, kind in OPTIONAL.items() if key in info)
            assert info["skills"] and 0 <= info["progress"] <= 1
            assert info["path_unit"] in ("m", "cells") and info["expert_steps"] > 0
            assert set(re.findall(r"\{(\w+)\}", " ".join(info["templates"]))) <= set(info["entities"])
            assert all(names == sorted(names) for names in info["entities"].values())
        env.close()

    def test_an_episode_is_the_same_whatever_was_played_before(self, playable: str):
        env, other = make_env(small(playable)), make_env(small(playable))
        first = play(env, 1)
        play(other, 0, steps=3)
        assert play(other, 1) == first
        assert play(env, 0)[0] != first[0]
        env.close()
        other.close()

    def test_disturbances_keep_it_reproducible(self, playable: str):
        suite = small(playable, disturbances=Rates(slip=0.4, move=0.0 if playable == "household" else 0.4))
        env, other = make_env(suite), make_env(suite)
        first = play(env, 0)
        assert play(other, 0) == first
        assert any(info["events"] for *_, info in first[1:])
        env.close()
        other.close()

    def test_nonsense_fails_and_changes_nothing(self, playable: str):
        env = make_env(small(playable))
        _, before = env.reset(seed=3, options={"episode": 0})
        for command in ("", "fly to the moon", "go to", "\u5b89\u5168 \U0001f600", "take " * 300):
            observation, reward, terminated, _, info = env.step(command)
            assert info["failed"] and info["failure"] and not terminated and reward == 0
            assert isinstance(observation, str) and observation
            kept = {key: info[key] for key in ("skills", "entities", "path_length", "progress", "goal")}
            assert kept == {key: before[key] for key in kept}
        env.close()

    def test_the_horizon_truncates(self, playable: str):
        env = make_env(small(playable, horizon=2))
        env.reset(seed=3, options={"episode": 0})
        assert [env.step("fly to the moon")[3] for _ in range(2)] == [False, True]
        env.close()

    def test_the_expert_wins_by_admissible_commands(self, playable: str):
        env = make_env(small(playable, horizon=60), expert=True)
        for episode in range(2):
            _, info = env.reset(seed=3, options={"episode": episode})
            steps = 0
            while not info["success"]:
                assert info["expert_actions"][0] in info["skills"]
                _, _, terminated, truncated, info = env.step(info["expert_actions"][0])
                steps += 1
                assert not truncated and terminated == info["success"]
            assert info["progress"] == 1.0 and steps == info["expert_steps"]
            assert info["path_length"] == pytest.approx(info["expert_path_length"])
        env.close()

    def test_an_episode_out_of_range_is_refused(self, playable: str):
        env = make_env(small(playable))
        with pytest.raises(ConfigError, match="episode"):
            env.reset(seed=3, options={"episode": 2})
        env.close()


def test_the_page_on_adding_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "add-an-environment.md").read_text("utf-8")
    options, env, register = re.findall(r"```python\n(.*?)```", page, re.S)
    suite = re.search(r"```yaml\n(.*?)```", page, re.S)
    assert suite is not None
    package = tmp_path / "yours"
    package.mkdir()
    for name, text in (("__init__", ""), ("options", options), ("env", env)):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "yours-demo.yaml"
    try:
        exec(register, {})
        file.write_text(suite[1])
        assert load_suite(file).options == {"scene": "flat"}
        assert issubclass(env_class("yours"), gym.Env)
        file.write_text(suite[1].replace("scene:", "scenery:"))
        with pytest.raises(ConfigError, match=r"options\.scenery: unknown key .did you mean 'scene'"):
            load_suite(file)
    finally:
        ENVIRONMENTS.pop("yours", None)
