"""Conventions of gymnasium: the episode that a `reset` begins, and the actions that a `step` takes."""

from __future__ import annotations

import operator
import string
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from erecap.errors import ConfigError


class Episodes:
    """The numbers of an environment's episodes, as `reset` calls for them.

    `options={"episode": i}` names one. Without it a seed begins the series anew, so that equal seeds give equal
    episodes, and a reset without either goes on to the next one, the first after the last.

    Args:
        count: how many episodes there are.

    >>> episodes = Episodes(3)
    >>> [episodes.begin(None, options) for options in (None, {}, None, None, {"episode": 1}, None)]
    [0, 1, 2, 0, 1, 2]
    >>> episodes.begin(7, None), episodes.begin(None, None), episodes.begin(7, None)
    (0, 1, 0)
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0

    def begin(self, seed: int | None, options: Mapping[str, Any] | None, first: int = 0) -> int:
        """The episode that begins now.

        Args:
            seed, options: of `reset`.
            first: the episode at which a new series begins.

        Raises:
            ConfigError: there is no such episode, or `options` is no mapping.
        """
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"options: got {options!r:.60}; allowed: a mapping such as {{'episode': 0}}")
        named = (options or {}).get("episode")
        if named is None:
            number = first if seed is not None else self._next
        else:
            number = _whole(named, self._count)
        self._next = (number + 1) % self._count
        return number


def text_spaces() -> tuple[gym.spaces.Text, gym.spaces.Text]:
    """The spaces of actions and observations: commands, and longer texts that may be empty."""
    printable = string.printable
    return gym.spaces.Text(200, charset=printable), gym.spaces.Text(20_000, min_length=0, charset=printable)


def render_mode_of(asked: str | None, known: str) -> str | None:
    """The render mode that was asked for.

    Args:
        known: the only one that the environment has, besides None.

    Raises:
        ConfigError: it is another one.
    """
    if asked not in (None, known):
        raise ConfigError(f"render_mode: got {asked!r}; allowed: None, {known!r}")
    return asked


def command_of(action: Any) -> str:
    """The command that an action is.

    Raises:
        gymnasium.error.InvalidAction: it is no text.
    """
    if not isinstance(action, str):
        raise gym.error.InvalidAction(
            f"step: got {action!r:.60}; allowed: a command as text, such as one of info['skills']"
        )
    return action


class Ending(gym.Wrapper[str, str, str, str]):
    """Refuses a step before the first `reset` and after the end of an episode, and all calls once it is closed."""

    _over: str | None = "no episode has begun"
    _closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Raises:
            gymnasium.error.ClosedEnvironmentError: it was closed.
        """
        self._check_open("reset")
        self._over = "no episode has begun"  # if the reset fails
        begun = self.env.reset(seed=seed, options=options)
        self._over = None
        return begun

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            gymnasium.error.ResetNeeded: there is no episode to act in.
            gymnasium.error.InvalidAction: the action is no text.
            gymnasium.error.ClosedEnvironmentError: it was closed.
        """
        self._check_open("step")
        if self._over is not None:
            raise gym.error.ResetNeeded(f"step: {self._over}; call reset() first")
        result = self.env.step(command_of(action))
        if result[2] or result[3]:
            self._over = "the episode is over"
        return result

    def close(self) -> None:
        """Free what the environment holds; closing again does nothing."""
        if not self._closed:
            self._closed = True
            self.env.close()

    def _check_open(self, called: str) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError(f"{called}: the environment is closed; make another one")


def offers(env: gym.Env[str, str], name: str) -> bool:
    """True if the innermost environment has an attribute; properties are not asked, since some need an episode."""
    return hasattr(type(env.unwrapped), name) or name in vars(env.unwrapped)


def _whole(number: Any, count: int) -> int:
    allowed = f"allowed: a whole number from 0 to {count - 1}"
    try:
        found = operator.index(number)
    except TypeError as error:
        raise ConfigError(f"episode: got {number!r:.60}; {allowed}") from error
    if isinstance(number, bool) or not 0 <= found < count:
        raise ConfigError(f"episode: got {number!r:.60}; {allowed}")
    return found
