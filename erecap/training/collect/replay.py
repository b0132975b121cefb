"""Plays single episodes of a collection again, from what a card says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from erecap.config import load_suite
from erecap.config.modes import parse_mode
from erecap.config.run import PlannerSettings, RunConfig
from erecap.config.suite import Suite
from erecap.errors import ConfigError
from erecap.rollout.components import OpenComponents
from erecap.rollout.executors.serial import SerialExecutor
from erecap.rollout.jobs import Job, episode_seed
from erecap.training.collect.episode import EXPERT, CollectComponents, Recipe, collect_job
from erecap.training.collect.rows import ordered_rows, token_counter
from erecap.training.collect.trajectories import Trajectory

Place = tuple[str, int]  # suite, episode


def recipe_of(source: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a card's source (`source_facts`); None where a model acted, which is not at hand.

    Raises:
        ConfigError: the card says too little of it.
    """
    options = source.get("options")
    if not isinstance(options, dict) or not isinstance(source.get("seed"), int):
        raise ConfigError(f"{source.get('folder')}: the card does not say how it was collected")
    if options.get("planner") is not None:
        return None
    return Recipe.model_validate({**{k: v for k, v in options.items() if k != "planner"}, "seed": source["seed"]})


def replay(
    recipe: Recipe,
    places: Sequence[Place],
    *,
    suites: Mapping[str, Suite] | None = None,
    open_components: OpenComponents = CollectComponents,
    say: Callable[[str], None] = lambda line: None,
) -> list[Trajectory]:
    """Play episodes of a collection as they were played for it.

    Args:
        recipe: how.
        places: which.
        suites: by name; None: the packaged ones.

    Returns:
        Their trajectories, in the order of `places`; of a team's episode, one for each planner.

    Raises:
        ConfigError: no suite of that name.
        EnvironmentUnavailable: a simulator is missing.
    """
    known = suites or {name: load_suite(name) for name, _ in places}
    wide = {
        name: suite.model_copy(update={"episodes": recipe.first + recipe.episodes}) for name, suite in known.items()
    }
    config = RunConfig(name="replay", suites=list(wide), modes=[EXPERT], samples=0)
    config = config.model_copy(update={"planner": PlannerSettings(max_steps=recipe.max_steps)})
    jobs = [Job(name, EXPERT, number, episode_seed(wide[name].seed, number), sample=False) for name, number in places]
    with closing(SerialExecutor(config, wide, open_components, partial(collect_job, recipe))) as executor:
        executor.prepare([parse_mode(EXPERT)], say)
        played = executor.play(jobs, lambda job, steps, plans: None)
        return [row for rows in ordered_rows(played, jobs, recipe, token_counter(recipe)) for row in rows]
