"""A small text world, a scripted planner for it, and a program that plays a run with both.

    TINY_DELAY=0.05 python tests/rollout/tinyworld.py FOLDER [--executor process] [--workers 2]

The world is a corridor of rooms; a key lies in one of them.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict

from erecap.config import Mode, RunConfig, Suite
from erecap.envs import ENVIRONMENTS, EnvEntry, make_env
from erecap.errors import GameError
from erecap.generation import Message
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.expert import ExpertPlanner
from erecap.planners.llm import LLMPlanner
from erecap.protocols import Planner
from erecap.rollout.components import RealComponents


class TinyOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rooms: int = 6
    key: str = "key"
    broken: list[int] = []  # episodes whose game is corrupt from the start
    cracks: list[int] = []  # episodes whose game breaks at the second command
    deadly: list[int] = []  # episodes that end the process they are played in
    goalless: list[int] = []  # episodes with an empty goal
    padding: int = 0  # words added to each observation
    garbled: bool = False  # half a surrogate pair in each observation
    meeting: str = ""  # file in which each process signs; an episode waits until two have


class TinyEnv(gym.Env[str, str]):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        options: TinyOptions,
        *,
        seed: int,
        episodes: int,
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.options, self.expert, self.render_mode = options, expert, render_mode
        self.action_space = self.observation_space = gym.spaces.Text(100_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.episode = (options or {})["episode"]
        if self.options.meeting:
            self._await_another(Path(self.options.meeting))
        if self.episode in self.options.broken:
            raise GameError(f"game {self.episode} is corrupt")
        self.place = int(np.random.default_rng(seed).integers(2, self.options.rooms + 1))
        self.room, self.path, self.taken, self.seen, self.steps = 1, 0.0, False, False, 0
        return self._text(), self.info_now("")

    def _await_another(self, book: Path) -> None:
        with book.open("a") as file:
            file.write(f"{os.getpid()}\n")
        deadline = time.monotonic() + 60
        while len(set(book.read_text().split())) < 2:
            assert time.monotonic() < deadline, "nobody else came"
            time.sleep(0.02)

    def step(self, action: str):
        self.steps += 1
        if self.episode in self.options.cracks and self.steps == 2:
            raise GameError("the floor is gone")
        if self.episode in self.options.deadly:
            os._exit(9)
        if action not in self._skills():
            return "Nothing happens.", 0.0, False, False, self.info_now("that is not possible here")
        if action.startswith("go to "):
            room = int(action.rsplit(" ", 1)[1])
            self.path += abs(room - self.room)
            self.room = room
        else:
            self.taken = True
        return self._text(), float(self.taken), self.taken, False, self.info_now("")

    def render(self):
        image = np.zeros((8, 8, 3), np.uint8)
        image[:, self.room % 8] = 255
        return image

    def observe_again(self):
        return self._text(), self.info_now("")

    def _text(self) -> str:
        self.seen |= self.room == self.place
        thing = f"a {self.options.key}" if self.room == self.place else "nothing"
        noise = "\ud800" * self.options.garbled + " word" * self.options.padding
        return f"You are in room {self.room}. You see {thing}.{noise}"

    def _skills(self) -> list[str]:
        rooms = [f"go to room {n}" for n in range(1, self.options.rooms + 1) if n != self.room]
        return rooms + ([f"take {self.options.key}"] if self.room == self.place else [])

    def info_now(self, failure: str) -> dict[str, Any]:
        way = [] if self.room == self.place else [f"go to room {self.place}"]
        info = {
            "goal": "" if self.episode in self.options.goalless else f"Take the {self.options.key}.",
            "skills": self._skills(),
            "templates": ["go to {room}", "take {object}"],
            "entities": {
                "room": [f"room {n}" for n in range(1, self.options.rooms + 1)],
                "object": [self.options.key] if self.seen else [],
            },
            "subject": f"room {self.room}",
            "failed": bool(failure),
            "failure": failure,
            "events": [],
            "success": self.taken,
            "progress": 1.0 if self.taken else 0.5 * self.seen,
            "path_length": self.path,
            "expert_path_length": float(self.place - 1),
            "expert_steps": 2,
            "path_unit": "m",
        }
        return {**info, "expert_actions": [*way, f"take {self.options.key}"]} if self.expert else info


ENTRY = EnvEntry("tinyworld:TinyOptions", "tinyworld:TinyEnv", "dev")


class TinyComponents:
    """Plays suites with scripted models; each mode searches in another order."""

    def __init__(self, config: RunConfig, suites: Mapping[str, Suite]) -> None:
        # In a worker process nobody else registers it.
        ENVIRONMENTS.setdefault("tiny", ENTRY)
        self.config, self.envs = config, {}
        self.delay = float(os.environ.get("TINY_DELAY", "0"))

    def prepare(self, modes: list[Mode], say) -> None:
        say("preparing")

    def env(self, suite: Suite, *, expert: bool):
        key = (suite.name, expert)
        if key not in self.envs:
            self.envs[key] = make_env(suite, expert=expert, render_mode="rgb_array")
        return self.envs[key]

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        if mode.expert:
            return ExpertPlanner()
        return LLMPlanner(ScriptedModel(lambda messages: self.answer(mode, messages)), constrained=False)

    def answer(self, mode: Mode, messages: Sequence[Message]) -> str:
        time.sleep(self.delay)
        said = "\n".join(message["content"] for message in messages)
        thing = re.search(r"Take the (.+?)\.", said)[1]  # type: ignore[index]
        if messages[-1]["content"].split("\n")[-1].startswith("You are in room") and (
            f"You see a {thing}" in messages[-1]["content"].split("> ")[-1]
        ):
            return f"take {thing}"
        visited = set(re.findall(r"> go to room (\d+)", said))
        unseen = [n for n in range(2, 7) if str(n) not in visited]
        if len(unseen) == 3 and "could not be used" not in said:
            return "hello there"
        if mode.prune is not None:
            unseen.reverse()
        return "\n".join(f"go to room {n}" for n in unseen[:2]) or "go to room 1"

    def model_facts(self) -> dict[str, Any] | None:
        return None

    def threads(self) -> int | None:
        return None

    def close(self) -> None:
        for env in self.envs.values():
            env.close()


class ServedComponents(RealComponents):
    """The real ones, in processes where nobody else registers the world."""

    def __init__(self, config: RunConfig, suites: Mapping[str, Suite]) -> None:
        ENVIRONMENTS.setdefault("tiny", ENTRY)
        super().__init__(config, suites)


class DyingComponents(TinyComponents):
    """Ends its process before it is ready."""

    def prepare(self, modes: list[Mode], say) -> None:
        os._exit(7)


class FailingComponents(TinyComponents):
    """Cannot be prepared, and says why."""

    def prepare(self, modes: list[Mode], say) -> None:
        raise GameError("nothing to play with")


class UnequalComponents(TinyComponents):
    """Says that its process has weights of its own."""

    def model_facts(self) -> dict[str, Any] | None:
        return {"hash": str(os.getpid())}


def tiny_suite(**changes: Any) -> Suite:
    values = {"name": "tiny", "env": "tiny", "episodes": 4, "seed": 5, "horizon": 10, **changes}
    return Suite.model_validate(values)


def tiny_run(**changes: Any) -> RunConfig:
    values = {"name": "t", "suites": ["tiny"], "modes": ["full", "prune[recency]", "expert"], **changes}
    return RunConfig.model_validate(values)


def main() -> None:
    # By its module's name, which workers can import; that of a program would travel as a copy.
    from tinyworld import TinyComponents

    from erecap.rollout.run import run

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    config = tiny_run(executor=arguments.executor, workers=arguments.workers, samples=1)
    result = run(config, arguments.folder, suites={"tiny": tiny_suite()}, open_components=TinyComponents)
    raise SystemExit(0 if result.status == "finished" else 130)


if __name__ == "__main__":
    main()
