"""Disturbances that make plans fail: actions that slip, objects that move by themselves, doors that others close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from erecap.envs.episodes import offers
from erecap.errors import ConfigError

# One stream of random numbers each, so that one rate does not shift the other's draws.
_SLIP, _MOVE, _TIMED_MOVE, _CLOSING = 0, 1, 2, 3
# Of a command: they stay what they are when the world changes after it.
_AS_TOLD = ("failed", "failure", "subject", "events", "trail")


class Disturbances(gym.Wrapper[str, str, str, str]):
    """Lets actions slip and untouched objects move, the same ones in every replay of an episode.

    Whether step t of an episode is struck depends on (reset seed, episode, t) and on nothing else, so
    planners compared on one episode meet the same disturbances whatever they do. Which object moves is drawn
    the same way, as far as the planners have left the same objects untouched.

    A slip: the command is not carried out; the observation says that nothing happened, `failed` is True and
    `events` has "slip". A move happens before the command is carried out, and `events` has "move"; the
    observation shows it only where the agent looks.

    Where the environment has a clock of simulated seconds, others also act at times of their own: they move untouched
    objects and close doors. These times depend on (reset seed, episode) alone, so a slow planner meets more of them.
    What was due while a command was carried out happens right after it; what is due while the planner thinks
    (`advance`) happens before its plan is carried out, and is among the `events` of the plan's first command.

    Args:
        env: has `observe_again() -> (observation, info)` for `slip` and the disturbances by time,
            `move_untouched(rng) -> str | None` for moves (a name if something moved), `close_door(rng) -> str | None`
            for closings, and the clock `seconds` for the disturbances by time.
        slip: probability that a command slips, at each step.
        move: probability that an untouched object moves, at each step.
        seed: counts until `reset` is given one.
        moves_per_minute: untouched objects that others move in a simulated minute, on average.
        closings_per_minute: open doors that others close in a simulated minute, on average.

    Raises:
        ConfigError: a probability outside 0..1, a rate below 0, or a disturbance that the environment cannot make.

    >>> import gymnasium as gym
    >>> class Door(gym.Env):
    ...     def reset(self, *, seed=None, options=None):
    ...         return self.observe_again()
    ...     def observe_again(self):
    ...         return "The door is closed.", {"failed": False, "failure": "", "events": []}
    ...     def step(self, action):
    ...         return "The door is open.", 1.0, True, False, {"failed": False, "failure": "", "events": []}
    >>> env = Disturbances(Door(), slip=0.5)
    >>> _ = env.reset(seed=7)
    >>> for _ in range(3):
    ...     observation, *_, info = env.step("open door")
    ...     print(info["events"], observation)
    [] The door is open.
    [] The door is open.
    ['slip'] The action slipped, nothing happens.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        slip: float = 0.0,
        move: float = 0.0,
        seed: int = 0,
        moves_per_minute: float = 0.0,
        closings_per_minute: float = 0.0,
    ) -> None:
        super().__init__(env)
        for key, value, method in (("slip", slip, "observe_again"), ("move", move, "move_untouched")):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: a probability from 0 to 1")
            if value > 0 and not hasattr(env.unwrapped, method):
                why = f"{type(env.unwrapped).__name__} has no method {method}"
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: 0, because {why}")
        by_time = (
            ("moves_per_minute", moves_per_minute, "move_untouched"),
            ("closings_per_minute", closings_per_minute, "close_door"),
        )
        for key, value, method in by_time:
            if value < 0:
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: at least 0")
            lacks = next((name for name in ("seconds", "observe_again", method) if not offers(env, name)), None)
            if value > 0 and lacks is not None:
                why = f"{type(env.unwrapped).__name__} has no {lacks}"
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: 0, because {why}")
        self.slip, self.move = slip, move
        self._seed = seed
        self._episode, self._step = 0, 0
        self._by_time = {
            kind: (value, method)
            for kind, (_, value, method) in zip((_TIMED_MOVE, _CLOSING), by_time, strict=True)
            if value > 0
        }
        self._due: dict[int, tuple[float, int]] = {}  # kind -> second of its next event, and the event's number
        self._untold: list[str] = []  # events since the last command

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode, `options["episode"]` or the one that the environment goes on to.

        A seed decides the disturbances of the following episodes as well; see the class.
        """
        begun = self.env.reset(seed=seed, options=options)
        self._seed = self._seed if seed is None else seed
        named = (options or {}).get("episode")
        # An environment that numbers its episodes knows which one it went on to.
        self._episode = getattr(self.env.unwrapped, "episode", 0) if named is None else named
        self._step = 0
        self._untold = []
        self._due = {kind: (self._gap(kind, 0), 0) for kind in self._by_time}
        return begun

    def advance(self, seconds: float) -> tuple[bool, dict[str, Any]]:
        """Let the world go on while nobody commands; see the environment's own `advance`."""
        over, info = self.env.get_wrapper_attr("advance")(seconds)
        return over, self._go_on(info)

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the environment, struck or not."""
        slips, moves = self._stream(_SLIP), self._stream(_MOVE)
        self._step += 1
        events = []
        if moves.random() < self.move and self.get_wrapper_attr("move_untouched")(moves) is not None:
            events.append("move")
        if slips.random() < self.slip:
            observation, info = self.get_wrapper_attr("observe_again")()
            failure = "The action slipped, nothing happens."
            # The last observation is known; it is repeated only if something moved meanwhile.
            text = f"{failure} {observation}" if events else failure
            info = {**info, "failed": True, "failure": failure, "events": [*info["events"], *events, "slip"]}
            return text, 0.0, False, False, self._told(info)
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "events": [*info["events"], *events]}
        if not (terminated or truncated):
            info = self._go_on(info)
        return observation, reward, terminated, truncated, self._told(info)

    def _told(self, info: Mapping[str, Any]) -> dict[str, Any]:
        told = {**info, "events": [*info["events"], *self._untold]}
        self._untold = []
        return told

    def _go_on(self, info: dict[str, Any]) -> dict[str, Any]:
        """Let everything happen that is due by now; `info` with what the agent can do after it."""
        struck = False
        while self._due and min(self._due.values())[0] <= self.env.unwrapped.seconds:  # type: ignore[attr-defined]
            kind = min(self._due, key=lambda kind: (self._due[kind], kind))
            second, number = self._due[kind]
            self._due[kind] = second + self._gap(kind, number + 1), number + 1
            rng = self._stream(kind, number)
            rng.exponential()  # drew the gap before it
            if self.get_wrapper_attr(self._by_time[kind][1])(rng) is not None:
                self._untold.append("move" if kind == _TIMED_MOVE else "close")
                struck = True
        if not struck:
            return info
        now = self.get_wrapper_attr("observe_again")()[1]
        return {**now, **{key: info[key] for key in _AS_TOLD if key in info}}

    def _gap(self, kind: int, number: int) -> float:
        """Seconds between an event by time and the one before it."""
        return float(self._stream(kind, number).exponential(60.0 / self._by_time[kind][0]))

    def _stream(self, kind: int, number: int | None = None) -> np.random.Generator:
        """Random numbers of a kind at a step, or of its event of that number."""
        return np.random.default_rng([self._seed, self._episode, self._step if number is None else number, kind])
