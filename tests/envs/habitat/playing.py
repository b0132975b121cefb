"""The Habitat environment on a small simulator, and episodes played by its expert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from erecap.envs.habitat.env import HabitatEnv
from erecap.envs.habitat.options import HabitatOptions

FLAT = Path(__file__).with_name("flat_worker.py")


def interpreter(folder: Path, script: Path = FLAT) -> Path:
    """An executable that is given as the interpreter, and runs `script` instead of the worker."""
    path = folder / f"python-{script.stem}"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    path.chmod(0o755)
    return path


def make(folder: Path, episodes: int = 3, seed: int = 7, render_mode: str | None = None, **options: Any) -> HabitatEnv:
    """An environment on the small simulator."""
    small = {"rooms": (3, 3), "objects": 6, "expert": "search", **options}
    given = HabitatOptions(houses_dir=folder / "houses", python=small.pop("python", interpreter(folder)), **small)
    return HabitatEnv(given, seed=seed, episodes=episodes, expert=True, render_mode=render_mode)


def play(env: HabitatEnv, episode: int, most: int = 80) -> list[tuple[str, dict[str, Any]]]:
    """Observations and infos of an episode that its expert plays."""
    shown = [env.reset(options={"episode": episode})]
    while not shown[-1][1]["success"]:
        assert len(shown) <= most, shown[-3:]
        command = shown[-1][1]["expert_actions"][0]
        assert command in shown[-1][1]["skills"]
        observation, _, _, _, info = env.step(command)
        shown.append((observation, info))
    return shown
