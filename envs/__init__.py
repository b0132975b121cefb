"""Adapters to simulators: the registry, and the one function that builds an environment from a suite.

Nothing heavy is imported here. A simulator's package is imported when its environment is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from erecap.errors import ConfigError, EnvironmentUnavailable

if TYPE_CHECKING:
    import gymnasium as gym

    from erecap.config import Suite


@dataclass(frozen=True)
class EnvEntry:
    """Where an environment lives. Strings of the form `module:Name`, imported when asked for."""

    options: str  # pydantic model of the suite's `options`; its module imports no simulator
    factory: str  # gymnasium.Env, called as factory(options, seed=, episodes=, expert=, render_mode=)
    requires: str  # the extra to install: pip install 'erecap[requires]'


ENVIRONMENTS: dict[str, EnvEntry] = {
    "babyai": EnvEntry(
        options="erecap.envs.babyai.options:BabyAIOptions",
        factory="erecap.envs.babyai.env:BabyAIEnv",
        requires="babyai",
    ),
    "household": EnvEntry(
        options="erecap.envs.household.options:HouseholdOptions",
        factory="erecap.envs.household.env:HouseholdEnv",
        requires="household",
    ),
}


def entry(name: str) -> EnvEntry:
    """The registry's entry of environment `name`. Raises ConfigError with the names that exist."""
    if name not in ENVIRONMENTS:
        raise ConfigError(f"env: {name!r} is not an environment; allowed: {', '.join(sorted(ENVIRONMENTS))}")
    return ENVIRONMENTS[name]


def options_class(name: str) -> type[BaseModel]:
    """The pydantic model of the options that environment `name` takes.

    Raises: ConfigError if there is no such environment.
    """
    return _load(entry(name).options)


def env_class(name: str) -> type[gym.Env[str, str]]:
    """The environment's class; imports its simulator.

    Raises: ConfigError if there is no such environment, EnvironmentUnavailable if a package is missing.
    """
    found = entry(name)
    try:
        return _load(found.factory)
    except ModuleNotFoundError as error:
        # A missing module of ours is a fault of this package, not of the installation.
        if error.name is None or error.name.split(".")[0] == "erecap":
            raise
        raise EnvironmentUnavailable(
            f"environment {name!r} needs the package {error.name!r}, which is not installed: "
            f"pip install 'erecap[{found.requires}]'"
        ) from error


def make_env(suite: Suite, *, expert: bool = False, render_mode: str | None = None) -> gym.Env[str, str]:
    """Build the environment of a suite: simulator, then disturbances, then the horizon.

    Args:
        suite: has `name`, `env`, `options`, `episodes`, `seed`, `horizon`, `disturbances` (`slip`, `move`).
        expert: put `expert_actions` into every info, which costs an expert's run at each step.
        render_mode: None, or "rgb_array" where the environment draws frames.

    Returns:
        A gymnasium environment: commands in, text out; `reset(seed=s, options={"episode": i})`.

    Raises:
        ConfigError: unknown environment, bad options, or a disturbance that it cannot make.
        EnvironmentUnavailable: a package of the simulator is missing.
    """
    options = _validated(suite.name, options_class(suite.env), suite.options)
    made = env_class(suite.env)(  # type: ignore[call-arg]  # the constructor of our contract, not gymnasium's
        options, seed=suite.seed, episodes=suite.episodes, expert=expert, render_mode=render_mode
    )
    from gymnasium.wrappers import TimeLimit  # the extra brings gymnasium; it was imported just now

    from erecap.envs.disturbances import Disturbances

    rates = suite.disturbances
    disturbed = Disturbances(made, slip=rates.slip, move=rates.move, seed=suite.seed)
    return TimeLimit(disturbed, max_episode_steps=suite.horizon)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _validated(suite: str, model: type[BaseModel], options: Any) -> BaseModel:
    from erecap.validation import one_line  # here, for the config room asks this one for option classes

    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise ConfigError(one_line(f"suite {suite}", error, model, prefix="options.")) from error
