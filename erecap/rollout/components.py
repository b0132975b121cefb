"""Opens what a run plays with: environments, the model, planners. Once per process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import ConfigError, GameError
from erecap.generation import Message
from erecap.models import describe_adapter, fingerprint, load, locate, locate_adapter
from erecap.protocols import Planner
from erecap.registries import LEARNED

if TYPE_CHECKING:
    import gymnasium as gym

    from erecap.cost.model import CostModel
    from erecap.language_models.masked import MaskedSessions
    from erecap.language_models.per_episode import EpisodeSessions
    from erecap.language_models.transformers import TransformersLanguageModel
    from erecap.scheduling.rules import Scheduler
    from erecap.session.pool.pool import ReplanPool
    from erecap.tokens.cache.read_scores import ReadScorer
    from erecap.tokens.scoring.learned import LearnedScorer
    from erecap.tokens.scoring.schedule import PruneConfig

Say = Callable[[str], None]


class Components(Protocol):
    """What the executors ask for. Tests and other hosts bring their own."""

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Load and warm up whatever `modes` need, so that no episode pays for it."""

    def env(self, suite: Suite, *, expert: bool) -> gym.Env[str, str]:
        """The environment of a suite, opened at the first call."""

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        """The planner of a mode, for a new episode; with `trace` its generations say what was kept of the prompt."""

    def model_facts(self) -> dict[str, Any] | None:
        """`model` of `run.json`; None where no model was loaded."""

    def threads(self) -> int | None:
        """Threads of the model's arithmetic; None where no model was loaded."""

    def pool(self) -> ReplanPool | None:
        """What joins the forward calls of several episodes; None where no model was loaded.

        Raises:
            ConfigError: the model's calls cannot be joined.
        """

    def twin(self) -> Components:
        """The same once more, on the same model, for an episode that is played at the same time. Prepared already."""

    def close(self) -> None:
        """Close the environments."""


OpenComponents = Callable[[RunConfig, Mapping[str, Suite]], Components]
"""Called in each process that plays; for the process executor it must be a module-level callable."""


class RealComponents:
    """The registered environments, a transformers model, and the planners of this package."""

    def __init__(self, config: RunConfig, suites: Mapping[str, Suite]) -> None:
        self._config = config
        self._suites = suites
        self._envs: dict[tuple[str, bool], gym.Env[str, str]] = {}
        self._models: dict[Mode, TransformersLanguageModel | EpisodeSessions | MaskedSessions] = {}
        self._planners: dict[Mode, Planner] = {}
        self._loaded: tuple[Any, Any] | None = None  # model and tokenizer
        self._facts: dict[str, Any] | None = None
        self._scorer: LearnedScorer | None = None

    def prepare(self, modes: list[Mode], say: Say) -> None:
        """Open the environments; load the model; make one call per mode that is not timed.

        Raises:
            EnvironmentUnavailable: a simulator's package is missing.
            ModelError: the model is missing or damaged.
            ConfigError: a disturbance that an environment cannot make, or stages beyond the model's layers.
        """
        wants_model = [mode for mode in modes if mode.needs_model]
        if wants_model:
            # A missing model is told before anything slow begins.
            locate(self._config.model)
            if self._config.adapter is not None:
                locate_adapter(self._config.adapter)
        for suite in self._suites.values():
            say(f"opening suite {suite.name}")
            for expert in sorted({mode.kind == "expert" for mode in modes}):
                # Broken games become rows when their episodes are played; all other trouble ends the run now.
                with suppress(GameError):
                    self.env(suite, expert=expert)
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
            model = self._models[mode]
            model.trace = trace
            if mode.session:
                model.restart()  # type: ignore[union-attr]
        return self._planners[mode]

    def model_facts(self) -> dict[str, Any] | None:
        return self._facts

    def threads(self) -> int | None:
        if self._facts is None:
            return None
        import torch

        return torch.get_num_threads()

    def pool(self) -> ReplanPool | None:
        if self._loaded is None:
            return None
        from erecap.session.pool.pool import ReplanPool

        try:
            return ReplanPool(*self._loaded)
        except ValueError as error:
            raise ConfigError(f"batch: {error}; play with batch 1") from error

    def twin(self) -> RealComponents:
        twin = type(self)(self._config, self._suites)
        twin._loaded, twin._facts, twin._scorer = self._loaded, self._facts, self._scorer
        twin._open_models(list(self._models))
        twin._planners = {mode: twin._make_planner(mode) for mode in self._planners}
        return twin

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _load_model(self, modes: list[Mode], say: Say) -> None:
        import torch

        config = self._config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        say(f"loading model {config.model}")
        self._loaded = load(config.model, config.dtype, config.device, adapter=config.adapter)
        self._facts = describe_model(config.model, self._loaded[0], config.adapter)
        self._open_models(modes)
        say("warming up: one call per mode")
        for language_model in self._models.values():
            language_model.generate(_warm_up_chat(), max_new_tokens=8)

    def _open_models(self, modes: list[Mode]) -> None:
        """A language model for each mode, on the one that was loaded."""
        from erecap.language_models.transformers import TransformersLanguageModel

        for mode in modes:
            assert self._loaded is not None and self._facts is not None, "loaded before, as some mode needs it"
            if mode.session:
                self._models[mode] = self._sessions(mode, *self._loaded)
            else:
                prune = self._prune_config(mode, self._facts["layers"])
                self._models[mode] = TransformersLanguageModel(*self._loaded, prune=prune)

    def _sessions(self, mode: Mode, model: Any, tokenizer: Any) -> EpisodeSessions | MaskedSessions:
        from erecap.language_models.masked import MaskedSessions
        from erecap.language_models.per_episode import EpisodeSessions

        budget = None if mode.kind == "reuse" else self._config.budget.budget()
        cost = None
        if budget is not None and budget.pays is not None and mode.kind != "mask":
            cost = self._cost_model(model, "budget", ["pays"])
        try:
            if mode.kind == "mask":
                assert budget is not None, "only reuse has no budget"
                packed, scheduler = self._config.decode_weights, self._scheduler(model)
                return MaskedSessions(model, tokenizer, budget=budget, decode_weights=packed, scheduler=scheduler)
            return EpisodeSessions(
                model,
                tokenizer,
                budget=budget,
                evict_by=self._evict_by(mode),
                stale_first=mode.kind == "erecap",
                seed=self._config.seed,
                decode_weights=self._config.decode_weights,
                scheduler=self._scheduler(model),
                cost=cost,
            )
        except ValueError as error:  # decode weights that this model cannot have, or not on this device
            raise ConfigError(f"mode {mode}: {error}") from error

    def _evict_by(self, mode: Mode) -> str | ReadScorer:
        """What ranks the tokens of a session: the mode's criterion; for `erecap` the pruner, if there is one."""
        if mode.kind == "erecap" and self._config.pruner is not None:
            return self._learned()
        return "recency" if mode.kind in ("reuse", "erecap") else mode.kind

    def _learned(self) -> LearnedScorer:
        """The run's trained pruner, loaded once."""
        from erecap.tokens.scoring.learned import LearnedScorer
        from erecap.tokens.scoring.pruner_files import describe_pruner, load_pruner

        if self._scorer is None:
            facts, name = self._facts, self._config.pruner
            assert facts is not None and name is not None, "checked with the run's settings"
            pruner = load_pruner(
                name,
                hidden_size=facts["hidden_size"],
                layers=facts["layers"],
                base=facts["hash"],
                adapter=facts["adapter"]["hash"] if facts["adapter"] else None,
                allow_untested=self._config.allow_untested_pruner,
            )
            facts["pruner"] = describe_pruner(name)
            self._scorer = LearnedScorer(pruner)
        return self._scorer

    def _scheduler(self, model: Any) -> Callable[[], Scheduler] | None:
        """Makes the scheduler of an episode; predictions need what `erecap calibrate` stored for this very setting."""
        settings = self._config.schedule
        if settings is None:
            return None
        from erecap.scheduling.rules import Scheduler

        timed = [name for name in ("deadline_ms", "may_defer", "reuse_plan") if getattr(settings, name)]
        cost = self._cost_model(model, "schedule", timed)
        window = model.config.get_text_config(decoder=True).max_position_embeddings
        options = settings.model_dump()
        return lambda: Scheduler(cost, budget_tokens=None, window=window, **options)

    def _cost_model(self, model: Any, section: str, timed: list[str]) -> CostModel | None:
        """What `erecap calibrate` stored for this very setting; refused where settings of `section` need it in vain."""
        from erecap.cost.machine import cost_key
        from erecap.cost.store import load_cost_model

        assert self._facts is not None, "the model is described before its sessions are made"
        cost = load_cost_model(cost_key(model, self._config.decode_weights, weights=self._facts["hash"]))
        if cost is None and timed:
            raise ConfigError(
                f"{section}: {', '.join(timed)} needs predicted times, and this model was not calibrated here for "
                f"decode_weights {self._config.decode_weights}; run `erecap calibrate` with the same settings first"
            )
        return cost

    def _prune_config(self, mode: Mode, layers: int) -> PruneConfig | None:
        from erecap.tokens.scoring.schedule import PruneConfig

        if mode.scorer is None:
            return None
        settings = self._config.prune
        stages = None if settings.stages is None else tuple(settings.stages)
        try:
            prune = PruneConfig(
                scorer=self._learned() if mode.scorer == LEARNED else mode.scorer,
                keep=settings.keep,
                stages=stages,
                sinks=settings.sinks,
                local=settings.local,
                seed=self._config.seed,
            )
            prune.resolve_stages(layers)
        except ValueError as error:
            raise ConfigError(f"prune: {error}") from error
        return prune

    def _make_planner(self, mode: Mode) -> Planner:
        from erecap.planners.expert import ExpertPlanner
        from erecap.planners.llm import LLMPlanner

        settings = self._config.planner
        if not mode.needs_model:
            return ExpertPlanner(max_steps=settings.max_steps)
        return LLMPlanner(
            self._models[mode],
            max_steps=settings.max_steps,
            max_new_tokens=settings.max_new_tokens,
            constrained=settings.constrained,
            stuck_after=settings.stuck_after,
        )


def describe_model(name: str, model: Any, adapter: str | None = None) -> dict[str, Any]:
    """What `run.json` says of a transformers model: its shape, the hash of its weights, and what was merged into it."""
    shape = model.config.get_text_config()
    heads = shape.num_attention_heads
    return {
        # A folder is named by its last part: paths of a machine are nobody else's business.
        "name": Path(name).name if Path(name).is_absolute() else name,
        "hash": fingerprint(locate(name)),
        "adapter": describe_adapter(adapter) if adapter is not None else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": shape.num_hidden_layers,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "heads": heads,
        "kv_heads": getattr(shape, "num_key_value_heads", None) or heads,
        "head_dim": getattr(shape, "head_dim", None) or shape.hidden_size // heads,
        "vocab_size": shape.vocab_size,
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
    }


def _warm_up_chat() -> list[Message]:
    """Long enough that every mode prunes in it."""
    places = "\n".join(f"You look at shelf {number}. On it, there is nothing." for number in range(1, 41))
    return [
        {"role": "system", "content": "You plan for a robot. Reply with the next command."},
        {"role": "user", "content": f"Goal: find a cup.\n{places}"},
    ]
