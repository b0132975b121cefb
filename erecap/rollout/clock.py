"""The clock of an episode: the world goes on while the planner thinks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from erecap.config.clock import ClockSettings
from erecap.context.records import Context
from erecap.envs.episodes import offers
from erecap.errors import ConfigError, GameError
from erecap.generation import JsonRow
from erecap.protocols import Plan, Planner, ReadingPlanner
from erecap.rollout.charges import Charge

if TYPE_CHECKING:
    import gymnasium as gym

DEFERRED, REUSED = "defer", "reuse-plan"  # decisions of a scheduler


class EpisodeClock:
    """Makes simulated seconds pass for what the planner takes, and counts them.

    A second of the planner is `scale` simulated seconds. What a session reads ahead runs beside the robot's motion: it
    costs nothing unless it takes longer than the commands after it; what is left then is waited for at the next call.

    Charged, the simulator advances by the price of each call. On the wall clock the robot's motion takes real time as
    well (its simulated seconds over `scale`), and the price is the real time from its end until the plan is there.

    Args:
        settings: of the run.
        env: an environment with a clock: `advance(seconds)` on it or a wrapper, and `seconds` on the innermost one.
        charge: prices of the mode's calls.
        now, sleep: the real clock, in seconds.

    Raises:
        ConfigError: an environment without a clock.
    """

    def __init__(
        self,
        settings: ClockSettings,
        env: gym.Env[str, str],
        charge: Charge,
        *,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        require_clock(env, settings)
        self._settings, self._env, self._charge = settings, env, charge
        self._now, self._sleep = now, sleep
        self.begin()

    def begin(self) -> None:
        """An episode begins."""
        self._backlog = 0.0  # simulated seconds of reading ahead that the motion so far did not cover
        self._ahead_tokens, self._ahead_ms = 0, 0.0  # read ahead since the last call
        self._moved = 0.0  # simulated second up to which the episode was followed
        self._robot_until = self._now()  # real second at which the robot is done with its commands
        self.thinking_s = 0.0  # simulated seconds that were waited for plans
        self.violations = self.deferred = self.reused = 0

    @property
    def seconds(self) -> float:
        """Simulated seconds so far."""
        seconds = float(self._env.unwrapped.seconds)  # type: ignore[attr-defined]
        if not (math.isfinite(seconds) and seconds >= 0):
            raise GameError(f"the environment's clock shows {seconds}; allowed: 0 or more, finite")
        return seconds

    def planned(self, plan: Plan, elapsed_ms: float) -> tuple[bool, dict[str, Any], JsonRow]:
        """Let the world go on for a planning call that has just been made.

        Returns:
            True if the episode was lost by that, an info with what is possible now, and the fields of the call's row.
        """
        at = self.seconds
        if self._settings.kind == "wall":
            waited = max(0.0, self._now() - self._robot_until) * self._settings.scale
        else:
            waited = self._backlog + self._charge.call(plan, elapsed_ms) * self._settings.scale / 1e3
        over, info = self._env.get_wrapper_attr("advance")(waited)
        self.thinking_s += waited
        met = None if self._settings.slo_ms is None else 1e3 * waited <= self._settings.slo_ms
        action = plan.generation.decision.action if plan.generation and plan.generation.decision else None
        self.violations += met is False
        self.deferred += action == DEFERRED
        self.reused += action == REUSED
        row = {
            "at_s": round(at, 3),
            "waited_ms": round(1e3 * waited, 3),
            "read_ahead_tokens": self._ahead_tokens,
            "read_ahead_ms": round(self._ahead_ms, 3),
            "slo_met": met,
        }
        self._backlog, self._ahead_tokens, self._ahead_ms = 0.0, 0, 0.0
        self._moved, self._robot_until = self.seconds, self._now()
        return bool(over), info, row

    def acted(self) -> None:
        """The robot has carried out a command; on the wall clock that takes its time."""
        seconds = self.seconds
        motion, self._moved = max(0.0, seconds - self._moved), seconds
        self._backlog = max(0.0, self._backlog - motion)
        if self._settings.kind == "wall":
            self._robot_until += motion / self._settings.scale
            left = self._robot_until - self._now()
            if left > 0:
                self._sleep(left)

    def read_ahead(self, planner: Planner, context: Context) -> None:
        """Let the planner read what was observed, beside the command that follows."""
        if not (self._settings.read_ahead and isinstance(planner, ReadingPlanner)):
            return
        started = self._now()
        ahead = planner.read_ahead(context)
        if ahead is None:
            return
        ms = self._charge.reading(ahead, 1e3 * (self._now() - started))
        self._backlog += ms * self._settings.scale / 1e3
        self._ahead_tokens += ahead.tokens
        self._ahead_ms += ms

    def totals(self) -> JsonRow:
        """The fields of the episode's row."""
        return {
            "seconds": round(self._moved, 3),
            "thinking_s": round(self.thinking_s, 3),
            "slo_violations": None if self._settings.slo_ms is None else self.violations,
            "deferred": self.deferred,
            "reused_plans": self.reused,
        }


def require_clock(env: gym.Env[str, str], settings: ClockSettings) -> None:
    """Refuse an environment whose world does not go on by itself.

    Raises:
        ConfigError: it has no `advance` or no `seconds`.
    """
    lacks = next((name for name in ("advance", "seconds") if not offers(env, name)), None)
    if lacks is not None:
        why = f"{type(env.unwrapped).__name__} has no {lacks}, so its world cannot go on while the planner thinks"
        raise ConfigError(f"clock: got {settings.kind}; allowed: null, because {why}")
