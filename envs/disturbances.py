"""Disturbances that make plans fail: actions that slip, and objects that move by themselves."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from erecap.errors import ConfigError

_SLIP, _MOVE = 0, 1  # one stream of random numbers each, so that one rate does not shift the other's draws


class Disturbances(gym.Wrapper[str, str, str, str]):
    """Lets actions slip and untouched objects move, the same ones in every replay of an episode.

    Whether step t of an episode is struck depends on (reset seed, episode, t) and on nothing else, so
    planners compared on one episode meet the same disturbances whatever they do. Which object moves is drawn
    the same way, as far as the planners have left the same objects untouched.

    A slip: the command is not carried out; the observation says that nothing happened, `failed` is True and
    `events` has "slip". A move happens before the command is carried out, and `events` has "move"; the
    observation shows it only where the agent looks.

    Args:
        env: has `observe_again() -> (observation, info)` if `slip` > 0, and
            `move_untouched(rng) -> str | None` if `move` > 0 (a name if something moved).
        slip: probability that a command slips, at each step.
        move: probability that an untouched object moves, at each step.
        seed: counts until `reset` is given one.

    Raises:
        ConfigError: a probability outside 0..1, or a disturbance that the environment cannot make.

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

    def __init__(self, env: gym.Env[str, str], slip: float = 0.0, move: float = 0.0, seed: int = 0) -> None:
        super().__init__(env)
        for key, value, method in (("slip", slip, "observe_again"), ("move", move, "move_untouched")):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: a probability from 0 to 1")
            if value > 0 and not hasattr(env.unwrapped, method):
                why = f"{type(env.unwrapped).__name__} has no method {method}"
                raise ConfigError(f"disturbances.{key}: got {value!r}; allowed: 0, because {why}")
        self.slip, self.move = slip, move
        self._seed = seed
        self._episode, self._step = 0, 0

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
        return begun

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
            return text, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "events": [*info["events"], *events]}

    def _stream(self, kind: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._episode, self._step, kind])
