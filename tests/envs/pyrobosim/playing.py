"""Helpers of the pyrobosim tests: environments without wrappers, and episodes that the expert plays."""

from __future__ import annotations

from typing import Any

from erecap.envs.pyrobosim.env import PyRoboSimEnv
from erecap.envs.pyrobosim.options import PyRoboSimOptions


def make(episodes: int = 2, seed: int = 3, **options: Any) -> PyRoboSimEnv:
    return PyRoboSimEnv(PyRoboSimOptions(**options), seed=seed, episodes=episodes, expert=True)


def play(env: PyRoboSimEnv, episode: int, horizon: int) -> list[tuple[str, str, dict[str, Any]]]:
    """(command, observation, info) of an episode that the expert plays; the first command is empty."""
    observation, info = env.reset(options={"episode": episode})
    shown = [("", observation, info)]
    while not info["success"] and len(shown) <= horizon:
        command = info["expert_actions"][0]
        assert command in info["skills"], (command, info["skills"])
        observation, _, _, _, info = env.step(command)
        shown.append((command, observation, info))
    return shown
