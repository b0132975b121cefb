"""An environment of one's own, registered by name and played: a corridor of rooms whose lamps are to be switched off.

It needs no simulator. `docs/add-an-environment.md` says what each key of the info is for.

    python examples/custom_environment.py                       # the expert alone, without a model
    python examples/custom_environment.py --modes expert erecap # and the embedded model, which was not trained for it
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from erecap import envs
from erecap.config import PlannerSettings, RunConfig, Suite
from erecap.errors import ConfigError
from erecap.report import Report
from erecap.rollout.run import run


class LampsOptions(BaseModel):
    """Settings: what a suite may set under `options`."""

    model_config = ConfigDict(extra="forbid")
    rooms: int = Field(default=5, ge=2, description="rooms of the corridor")


class LampsEnv(gym.Env[str, str]):
    """A corridor of rooms, in each of which a lamp may burn. Episodes end when all lamps are off."""

    def __init__(
        self, options: LampsOptions, *, seed: int, episodes: int, expert: bool = False, render_mode: str | None = None
    ) -> None:
        self.action_space = self.observation_space = gym.spaces.Text(1000)
        self.render_mode = render_mode
        self._rooms, self._seed, self._episodes, self._expert = options.rooms, seed, episodes, expert

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        episode = (options or {}).get("episode", 0)
        if not 0 <= episode < self._episodes:
            raise ConfigError(f"lamps: there is no episode {episode}; allowed: 0 to {self._episodes - 1}")
        draw = np.random.default_rng([self._seed if seed is None else seed, episode])
        burning = draw.choice(np.arange(2, self._rooms + 1), size=max(1, self._rooms // 2), replace=False)
        self._on = {int(room) for room in burning}
        self._lamps, self._farthest = len(self._on), max(self._on)
        self._room, self._path = 1, 0.0
        return self.observe_again()

    def step(self, command: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        failure = "" if command in self._skills() else "that is not possible here"
        if not failure and command == "switch off lamp":
            self._on.remove(self._room)
        elif not failure:
            room = int(command.split()[-1])
            self._path += abs(room - self._room)
            self._room = room
        seen, info = self._told(failure)
        return seen, float(info["success"]), info["success"], False, info

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The present moment once more, with nothing done."""
        return self._told("")

    def _skills(self) -> list[str]:
        away = [f"go to room {room}" for room in range(1, self._rooms + 1) if room != self._room]
        return (["switch off lamp"] if self._room in self._on else []) + away

    def _told(self, failure: str) -> tuple[str, dict[str, Any]]:
        seen = f"You are in room {self._room}. The lamp is {'on' if self._room in self._on else 'off'}."
        info: dict[str, Any] = {
            "goal": "switch off every lamp",
            "skills": self._skills(),
            "templates": ["switch off lamp", "go to {room}"],
            "entities": {"room": [f"room {room}" for room in range(1, self._rooms + 1)]},
            "subject": f"room {self._room}",
            "failed": bool(failure),
            "failure": failure,
            "events": [],
            "success": not self._on,
            "progress": 1 - len(self._on) / self._lamps,
            "path_length": self._path,
            "path_unit": "cells",
            # One walk to the farthest lamp, from the first room.
            "expert_path_length": float(self._farthest - 1),
            "expert_steps": 2 * self._lamps,
        }
        if self._expert:
            nearest = min(self._on, key=lambda room: (abs(room - self._room), room), default=None)
            walk = [] if nearest in (self._room, None) else [f"go to room {nearest}"]
            info["expert_actions"] = [*walk, "switch off lamp"] if self._on else []
        return f"{failure}: {seen}" if failure else seen, info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", default=["expert"])
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--rooms", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/lamps"))
    args = parser.parse_args()

    # By strings, so that processes which play in parallel import it for themselves.
    entry = envs.EnvEntry("custom_environment:LampsOptions", "custom_environment:LampsEnv", "nothing")
    envs.register("lamps", entry)
    values = {"name": "lamps", "env": "lamps", "episodes": args.episodes, "seed": 7, "horizon": 20}
    suite = Suite.model_validate({**values, "options": {"rooms": args.rooms}})
    # After two commands without news, a plan begins with one of the commands that were tried least.
    planner = PlannerSettings(stuck_after=2)
    config = RunConfig(name="lamps", suites=["lamps"], modes=args.modes, planner=planner)
    folder = run(config, args.out, suites={"lamps": suite}).folder
    Console().print(Report.of(folder).table())


if __name__ == "__main__":
    main()
