"""Open the environments, the model and the planners of a run. Once per process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from erecap.config.modes import Mode, is_url
from erecap.config.run import COOPERATIVE, EXPERT, RunConfig
from erecap.config.suite import Suite
from erecap.errors import ConfigError, GameError
from erecap.models import locate, locate_adapter
from erecap.planners.cooperative.agents import team_settings
from erecap.protocols import LanguageModel, Planner
from erecap.registries import PLANNERS
from erecap.rollout.clock import require_clock

if TYPE_CHECKING:
    import gymnasium as gym

    from erecap.language_models.opened import OpenedModel
    from erecap.session.pool.pool import ReplanPool

Say = Callable[[str], None]


class Components(Protocol):
    """The interface that the executors use. Tests and other hosts bring their own."""

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Load and warm up everything that `modes` need, so that no episode pays for it."""

    def env(self, suite: Suite, *, expert: bool) -> gym.Env[str, str]:
        """The environment of a suite, opened at the first call."""

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        """The planner of a mode, for a new episode; with `trace` its generations say what was kept of the prompt."""

    def model_facts(self) -> dict[str, Any] | None:
        """`model` of `run.json`; None where no model was loaded."""

    def threads(self) -> int | None:
        """Threads of the model's arithmetic; None where no model was loaded."""

    def pool(self) -> ReplanPool | None:
        """The pool that joins the forward calls of several episodes; None where no model was loaded.

        Raises:
            ConfigError: the model's calls cannot be joined.
        """

    def twin(self) -> Components:
        """Prepared components on the same model, for an episode that is played at the same time."""

    def close(self) -> None:
        """Close the environments."""


OpenComponents = Callable[[RunConfig, Mapping[str, Suite]], Components]
"""Called in each process that plays; for the process executor it must be a module-level callable."""


class RealComponents:
    """The registered environments and planners, and a transformers model."""

    def __init__(self, config: RunConfig, suites: Mapping[str, Suite]) -> None:
        self._config = config
        self._suites = suites
        self._envs: dict[tuple[str, bool], gym.Env[str, str]] = {}
        self._models: dict[Mode, LanguageModel] = {}
        self._planners: dict[Mode, Planner] = {}
        self._opened: OpenedModel | None = None
        self._facts: dict[str, Any] | None = None

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Open the environments; load the model; make one call per mode that is not timed.

        Raises:
            EnvironmentUnavailable: a simulator's package is missing.
            ModelError: the model is missing or damaged.
            ConfigError: a disturbance that an environment cannot make, or settings that do not fit the model.
        """
        wants_model = [mode for mode in modes if mode.needs_model]
        # What is missing or wrong is told before anything slow begins.
        team_settings(self._config.planner)
        if wants_model and not is_url(self._config.model):
            locate(self._config.model)
            if self._config.adapter is not None:
                locate_adapter(self._config.adapter)
            if self._config.plans() != {None}:
                from erecap.layers.files import find_plan

                for plan in self._config.plans() - {None}:
                    find_plan(str(plan))
            _controllers(self._config, wants_model)
        for suite in self._suites.values():
            say(f"opening suite {suite.name}")
            for expert in sorted({self._config.asks_expert(mode) for mode in modes}):
                # Broken games become rows when their episodes are played; all other trouble ends the run now.
                with suppress(GameError):
                    env = self.env(suite, expert=expert)
                    if self._config.clock is not None:
                        require_clock(env, self._config.clock)
        if wants_model:
            self._load_model(wants_model, say)
        for mode in modes:
            self._planners[mode] = self._make_planner(mode)

    def env(self, suite: Suite, *, expert: bool) -> gym.Env[str, str]:
        """Raises GameError if the suite's games cannot be opened; the next call tries again."""
        from erecap.envs import env_class, make_env

        key = (suite.name, expert)
        if key not in self._envs:
            draws = "rgb_array" in env_class(suite.env).metadata.get("render_modes", [])
            frames = "rgb_array" if draws and self._config.samples else None
            self._envs[key] = make_env(suite, expert=expert, render_mode=frames)
        return self._envs[key]

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        if mode in self._models:
            model = self.language_model(mode)
            model.trace = trace
        return self._planners[mode]

    def language_model(self, mode: Mode) -> LanguageModel:
        """The language model of a mode that was prepared, for a new episode."""
        model = self._models[mode]
        model.reset()
        return model

    def model_facts(self) -> dict[str, Any] | None:
        return self._facts

    def threads(self) -> int | None:
        if self._opened is None:
            return None
        import torch

        return torch.get_num_threads()

    def pool(self) -> ReplanPool | None:
        if self._opened is None:
            return None
        from erecap.session.pool.pool import ReplanPool

        try:
            return ReplanPool(self._opened.model, self._opened.tokenizer)
        except ValueError as error:
            raise ConfigError(f"batch: {error}; play with batch 1") from error

    def twin(self) -> RealComponents:
        twin = type(self)(self._config, self._suites)
        twin._opened, twin._facts = self._opened, self._facts
        twin._build_models(list(self._models))
        twin._planners = {mode: twin._make_planner(mode) for mode in self._planners}
        return twin

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _load_model(self, modes: list[Mode], say: Say) -> None:
        from erecap.language_models.opened import ModelSettings, open_model, warm_up

        config = self._config
        if is_url(config.model):
            from erecap.language_models.served import ServedLanguageModel

            served = ServedLanguageModel(config.model)
            say(f"asking the server {served.where}")
            self._models = dict.fromkeys(modes, served)
            self._facts = {"served": served.name}
            warm_up(served)
            return
        say(f"loading model {config.model}")
        # One plan for all modes is applied once, and its memory freed. Several stand beside the whole model.
        plans = {config.plan_of(mode) for mode in modes}
        plan = next(iter(plans)) if len(plans) == 1 else None
        self._opened = open_model(
            ModelSettings(
                config.model, config.adapter, config.dtype, config.device, config.threads, plan, config.device_map
            )
        )
        self._build_models(modes)
        self._facts = {**self._opened.facts, **_pruners(config, modes), **_plans(config, modes, self._opened)}
        self._facts |= _controllers(config, modes)
        say("warming up: one call per mode")
        for language_model in self._models.values():
            warm_up(language_model)

    def _build_models(self, modes: list[Mode]) -> None:
        """A language model for each mode, on the one that was opened."""
        from erecap.language_models.build import CallSettings, build_language_model

        for mode in modes:
            assert self._opened is not None, "opened before, as some mode needs it"
            self._models[mode] = build_language_model(self._opened, mode, CallSettings.of(self._config))

    def _make_planner(self, mode: Mode) -> Planner:
        settings = self._config.planner
        alone = mode.expert and settings.name != COOPERATIVE  # a team has an expert of its own
        factory = PLANNERS.get_or_refuse(EXPERT if alone else settings.name, "planner.name")
        planner: Planner = factory(settings, self._models.get(mode))
        return planner


def _plans(config: RunConfig, modes: list[Mode], opened: OpenedModel) -> dict[str, Any]:
    """Descriptions of layer plans for `run.json`, by mode, where the modes have several."""
    plans = {mode.name: plan for mode in modes if (plan := config.plan_of(mode)) is not None}
    if len({config.plan_of(mode) for mode in modes}) == 1:  # stands as `plan` among the model's facts
        return {}
    facts = {name: opened.with_layers(plan).facts for name, plan in plans.items()}
    return {"plans": {name: {**found["plan"], "layers": found["layers"]} for name, found in facts.items()}}


def _controllers(config: RunConfig, modes: list[Mode]) -> dict[str, Any]:
    """Descriptions of controllers for `run.json`, by mode."""
    stated = {mode.name: found for mode in modes if (found := config.controller_of(mode)) is not None}
    if not stated:
        return {}
    from erecap.language_models.controlled import describe_controller

    return {"controllers": {name: describe_controller(settings) for name, settings in stated.items()}}


def _pruners(config: RunConfig, modes: list[Mode]) -> dict[str, Any]:
    """Descriptions of trained pruners for `run.json`: the run's as `pruner`, those that modes name as `pruners`."""
    from erecap.tokens.scoring.pruner_files import describe_pruner

    found: dict[str, Any] = {}
    if config.pruner is not None and any(mode.takes_run_pruner for mode in modes):
        found["pruner"] = describe_pruner(config.pruner)
    own = {mode.name: describe_pruner(mode.own_pruner) for mode in modes if mode.own_pruner is not None}
    return found | ({"pruners": own} if own else {})
