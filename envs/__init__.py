"""Adapters to simulators: the registry, and the one function that builds an environment from a suite.

Nothing heavy is imported here. A simulator's package is imported when its environment is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from erecap.errors import ConfigError, EnvironmentUnavailable
from erecap.registries import ENVIRONMENTS, EnvEntry, env_entry, import_or_refuse, load_attribute
from erecap.validation import one_line

__all__ = ["ENVIRONMENTS", "EnvEntry", "env_class", "env_entry", "make_env", "options_class", "register"]

if TYPE_CHECKING:
    import gymnasium as gym

    from erecap.config import Suite


register = ENVIRONMENTS.register  # (name, EnvEntry): adds an environment from another package


def options_class(name: str) -> type[BaseModel]:
    """The pydantic model of the options that environment `name` takes.

    Raises: ConfigError if there is no such environment, or its options cannot be imported.
    """
    options = env_entry(name).options
    return import_or_refuse(options, f"environment {name!r}: its options {options}")


def env_class(name: str) -> type[gym.Env[str, str]]:
    """The environment's class; imports its simulator.

    Raises: ConfigError if there is no such environment, EnvironmentUnavailable if a package is missing.
    """
    found = env_entry(name)
    try:
        return load_attribute(found.factory)
    except ModuleNotFoundError as error:
        # A missing module of ours is a fault of this package, not of the installation.
        if error.name is None or error.name.split(".")[0] == "erecap":
            raise
        raise EnvironmentUnavailable(
            f"environment {name!r} needs the package {error.name!r}, which is not installed: "
            f"pip install '{found.requires}'"
        ) from error


def make_env(suite: Suite, *, expert: bool = False, render_mode: str | None = None) -> gym.Env[str, str]:
    """Build the environment of a suite: simulator, then disturbances, then the horizon, then refusals after the end.

    Args:
        suite: which simulator, options, episodes, horizon and disturbances.
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
        options, seed=suite.seed, episodes=suite.numbers.stop, expert=expert, render_mode=render_mode
    )
    from gymnasium.wrappers import TimeLimit  # the extra brings gymnasium; it was imported just now

    from erecap.envs.disturbances import Disturbances
    from erecap.envs.episodes import Ending

    rates = suite.disturbances
    disturbed = Disturbances(
        made,
        slip=rates.slip,
        move=rates.move,
        seed=suite.seed,
        moves_per_minute=rates.moves_per_minute,
        closings_per_minute=rates.closings_per_minute,
    )
    return Ending(TimeLimit(disturbed, max_episode_steps=suite.horizon))


def _validated(suite: str, model: type[BaseModel], options: Any) -> BaseModel:
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise ConfigError(one_line(f"suite {suite}", error, model, prefix="options.")) from error
