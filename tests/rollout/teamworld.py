"""A small world for several robots: cups on shelves, and a clock for each robot."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
from pydantic import BaseModel, ConfigDict

from erecap.config import Suite
from erecap.envs import EnvEntry
from erecap.protocols import TeamInfo


class TeamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    robots: int = 2
    cups: int = 3
    ordered: bool = False  # cups are taken in the order of their numbers
    slow: bool = False  # the first robot needs four seconds to go anywhere
    eager: bool = False  # the expert names the lowest cup that is left to every robot


class TeamEnv(gym.Env[str, str]):
    """Cup i lies on shelf i. Going and taking last one second, waiting two. Each robot sees what it goes to."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self, options: TeamOptions, *, seed: int, episodes: int, expert: bool = False, render_mode: str | None = None
    ) -> None:
        self.options, self.expert, self.render_mode = options, expert, render_mode
        self.action_space = self.observation_space = gym.spaces.Text(10_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.clocks = [0.0] * self.options.robots
        self.at = [0] * self.options.robots
        self.left, self.path, self.waited = list(range(1, self.options.cups + 1)), 0.0, 0
        shelves = ", ".join(f"shelf {n}" for n in self.left)
        return f"There are {shelves}.", self._info("", "")

    @property
    def seconds(self) -> float:
        return float(max(self.clocks))

    def advance(self, seconds: float):
        """All robots stand and wait."""
        self.clocks = [clock + seconds for clock in self.clocks]
        return False, self._info("", "")

    @property
    def turn(self) -> int:
        return self.clocks.index(min(self.clocks))

    def step(self, action: str):
        robot = self.turn
        failure = "" if action in self._skills(robot) else "that is not possible"
        slow = self.options.slow and robot == 0 and action.startswith("go")
        self.clocks[robot] += 2 if action == "wait" else 4 if slow else 1
        text, subject = failure, ""
        if not failure:
            text, subject = self._act(robot, action)
        done = not self.left
        return text, float(done), done, False, self._info(failure, subject)

    def _act(self, robot: int, action: str) -> tuple[str, str]:
        if action == "wait":
            self.waited += 2
            return "You wait.", ""
        number = int(action.rsplit(" ", 1)[1])
        if action.startswith("take"):
            self.left.remove(number)
            return f"You take cup {number}.", f"shelf {number}"
        self.at[robot], self.path = number, self.path + 1
        return f"You are at shelf {number} and see {self._seen(number)}.", f"shelf {number}"

    def observe_again(self):
        return "Nothing new.", self._info("", "")

    def _seen(self, number: int) -> str:
        return f"cup {number}" if number in self.left else "nothing"

    def _skills(self, robot: int) -> list[str]:
        here = self.at[robot]
        may = here in self.left and (not self.options.ordered or here == self.left[0])
        shelves = [f"go to shelf {n}" for n in range(1, self.options.cups + 1) if n != here]
        return [*shelves, *([f"take cup {here}"] if may else []), "wait"]

    def _wanted(self, robot: int) -> list[str]:
        if not self.left:
            return []
        number = self.left[0] if self.options.eager else self.left[robot % len(self.left)]
        way = [] if self.at[robot] == number else [f"go to shelf {number}"]
        return [*way, f"take cup {number}"]

    def _info(self, failure: str, subject: str) -> dict[str, Any]:
        cups = [f"cup {n}" for n in range(1, self.options.cups + 1)]
        info = TeamInfo(
            goal="Take every cup.",
            skills=self._skills(self.turn),
            templates=["go to {place}", "take {item}", "wait"],
            entities={"item": cups, "place": [f"shelf {n}" for n in range(1, self.options.cups + 1)]},
            subject=subject,
            failed=bool(failure),
            failure=failure,
            events=[],
            success=not self.left,
            progress=1 - len(self.left) / self.options.cups,
            path_length=self.path,
            expert_path_length=float(self.options.cups),
            expert_steps=2 * self.options.cups,
            path_unit="m",
            constraints=[f"take cup {n} before take cup {n + 1}" for n in range(1, len(cups))]
            if self.options.ordered
            else [],
            seconds=self.seconds,
            waited=float(self.waited),
        )
        if self.options.robots > 1:
            info["robot"] = f"robot {self.turn + 1}"
            info["robots"] = [f"robot {n + 1}" for n in range(self.options.robots)]
        if self.expert:
            info["expert_actions"] = self._wanted(self.turn)
        return dict(info)


ENTRY = EnvEntry("tests.rollout.teamworld:TeamOptions", "tests.rollout.teamworld:TeamEnv", "dev")


def team_suite(**changes: Any) -> Suite:
    values = {"name": "teamworld", "env": "teamworld", "episodes": 3, "seed": 5, "horizon": 60, **changes}
    return Suite.model_validate(values)
