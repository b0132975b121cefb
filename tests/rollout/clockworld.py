"""A corridor whose clock goes on: a command takes two seconds, and an episode may have a deadline."""

from __future__ import annotations

from typing import Any

from tinyworld import TinyEnv, TinyOptions

from erecap.envs import EnvEntry

COMMAND_SECONDS = 2.0


class ClockOptions(TinyOptions):
    deadline: float = 1e9


class ClockEnv(TinyEnv):
    options: ClockOptions
    seconds = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.seconds = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action: str):
        self.seconds += COMMAND_SECONDS
        text, reward, _, _, info = super().step(action)
        won = info["success"] and not self.late
        return text, reward * won, won, self.late, {**info, "success": won, "out_of_time": self.late}

    def advance(self, seconds: float):
        self.seconds += seconds
        return self.late, self.observe_again()[1]

    @property
    def late(self) -> bool:
        return self.seconds > self.options.deadline


ENTRY = EnvEntry("clockworld:ClockOptions", "clockworld:ClockEnv", "dev")
