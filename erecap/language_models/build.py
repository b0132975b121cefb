"""Builds every `LanguageModel`: opens a model, then builds one for each mode.

opened = open_model(ModelSettings("smollm2-135m-instruct"))
model = build_language_model(opened, parse_mode("erecap"), CallSettings(budget=BudgetSettings(kv_tokens=512)))
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from erecap.budget import Budget
from erecap.config.controller import ControllerSettings
from erecap.config.modes import Evict, Mode
from erecap.config.run import BudgetSettings, PruneSettings, RereadSettings, RunConfig, ScheduleSettings
from erecap.decoding.linear import Weights
from erecap.errors import ConfigError
from erecap.language_models.compacted import CompactedSessions
from erecap.language_models.controlled import ControlledSessions, open_chooser, refuse_unservable
from erecap.language_models.following import check_mode
from erecap.language_models.masked import MaskedSessions
from erecap.language_models.opened import ModelSettings, OpenedModel, open_model
from erecap.language_models.per_episode import EpisodeSessions
from erecap.language_models.reread import RereadBeside
from erecap.language_models.schedulers import scheduler_maker, stored_cost_model
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.parallel.ranks import is_split
from erecap.protocols import LanguageModel
from erecap.registries import LEARNED, PRICED_DRAFTS
from erecap.tokens.cache.read_scores import ReadScorer
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.schedule import PruneConfig

__all__ = ["CallSettings", "ModelSettings", "OpenedModel", "build_language_model", "open_model", "session_options"]

TEXT = {"mask": MaskedSessions, "compact": CompactedSessions}


@dataclass(frozen=True)
class CallSettings:
    """A run's settings for the calls of all of its modes; each mode takes what its parts need."""

    budget: BudgetSettings = field(default_factory=BudgetSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    schedule: ScheduleSettings | None = None
    reread: RereadSettings | None = None
    decode_weights: Weights = "same"
    pruner: str | None = None  # trained pruner: a folder or a checkpoint's name
    allow_untested_pruner: bool = False
    seed: int = 0
    layers: str | None = None  # layer plan, where the mode names none: a folder or a checkpoint's name
    controller: ControllerSettings | None = None  # where the mode names none

    @classmethod
    def of(cls, config: RunConfig) -> CallSettings:
        """The call settings of a run."""
        return cls(
            config.budget,
            config.prune,
            config.schedule,
            config.reread,
            config.decode_weights,
            config.pruner,
            config.allow_untested_pruner,
            config.seed,
            config.layers,
            config.controller,
        )


def build_language_model(opened: OpenedModel, mode: Mode, settings: CallSettings) -> LanguageModel:
    """The language model of a mode, on an opened model.

    Raises:
        ConfigError: settings that do not fit the model, or a mode that asks no model.
        ModelError: a trained pruner or a layer plan that is damaged or of another model; an untested pruner.
    """
    if not mode.needs_model:
        raise ConfigError(f"mode {mode}: it asks no model")
    if mode.served:
        raise ConfigError(f"mode {mode}: it asks a server; allowed: in a run whose model is a URL")
    if hasattr(opened.model, "modules") and is_split(opened.model):
        check_mode(mode)
    opened = opened.with_layers(mode.layers or settings.layers)
    prune = _prune_config(opened, mode, settings)
    if not hasattr(opened.model, "modules") and (not mode.session or mode.text is not None):
        raise ConfigError(f"mode {mode}: a GGUF file was opened; allowed with it: kv: reuse or evict, without text")
    if not mode.session:
        return TransformersLanguageModel(opened.model, opened.tokenizer, prune=prune)
    budget = _budget(mode, settings)
    options = session_options(
        mode,
        budget=budget,
        seed=settings.seed,
        decode_weights=settings.decode_weights,
        ranking=_ranking(opened, mode, settings),
    )
    options |= {"prune": prune, "scheduler": scheduler_maker(opened, settings.schedule, options["decode_weights"])}
    if budget.pays is not None and isinstance(mode.kv, Evict):
        options["cost"] = stored_cost_model(opened, options["decode_weights"], "budget", ["pays"])
    if mode.decode.draft in PRICED_DRAFTS:
        options["draft_cost"] = stored_cost_model(opened, options["decode_weights"], "decode", [])
    try:
        if mode.text is not None:
            return TEXT[mode.text](opened.model, opened.tokenizer, **options | {"budget": budget})
        engine = opened.engine_of(mode.engine)
        controller = mode.controller or settings.controller
        if controller is not None:
            return _controlled(opened, mode, settings, controller, {**options, "engine": engine})
        served = opened.on_engine(engine)
        sessions = EpisodeSessions(served.model, served.tokenizer, engine=engine, **options)
        if settings.reread is None or settings.reread.mode != mode.name:
            return sessions
        # On the same path, so that what differs is what is read: a session of its own for each call, without a limit.
        anew = options | {"budget": None, "scheduler": None, "cost": None}
        again = EpisodeSessions(served.model, served.tokenizer, engine=engine, **anew)
        return RereadBeside(sessions, again, settings.reread.every)
    except ValueError as error:  # settings that the model, the device or the engine cannot serve
        raise ConfigError(f"mode {mode}: {error}") from error


def _controlled(
    opened: OpenedModel, mode: Mode, settings: CallSettings, controller: ControllerSettings, own: dict[str, Any]
) -> ControlledSessions:
    """Sessions that a controller steers; `own`: arguments of a `ReplanSession` as the mode has them."""
    chooser = open_chooser(controller)
    refuse_unservable(chooser, replace(mode, layers=mode.layers or settings.layers), opened)
    controlled = ControlledSessions(opened, own, chooser)
    controlled.try_actions()
    return controlled


def session_options(
    mode: Mode,
    *,
    budget: Budget,
    seed: int = 0,
    decode_weights: Weights = "same",
    ranking: ReadScorer | None = None,
) -> dict[str, Any]:
    """The arguments of a `ReplanSession` that a mode's parts decide.

    Args:
        budget: of modes that evict.
        decode_weights: where the mode does not say.
        ranking: the trained pruner that the mode ranks by, if it does.
    """
    kv = mode.kv if isinstance(mode.kv, Evict) else None
    return {
        "budget": budget if kv else None,
        "evict_by": ranking or (kv.by if kv else None) or "recency",
        "stale_first": kv is not None and kv.stale_first,
        "draft": mode.decode.draft,
        "decode_weights": mode.decode.weights or decode_weights,
        "seed": seed,
        **({} if mode.decode.exit is None else {"exit": mode.decode.exit}),
    }


def _budget(mode: Mode, settings: CallSettings) -> Budget:
    """The budget of a mode: its own where it states one, else the run's."""
    return settings.budget.budget() if mode.own_kv_tokens is None else Budget.of(mode.own_kv_tokens)


def _ranking(opened: OpenedModel, mode: Mode, settings: CallSettings) -> LearnedScorer | None:
    """The trained pruner that ranks what the mode's sessions evict."""
    if not isinstance(mode.kv, Evict):
        return None
    name = mode.own_pruner or (settings.pruner if mode.kv.by in (None, LEARNED) else None)
    if name is None:
        return None
    return opened.learned_scorer(name, allow_untested=settings.allow_untested_pruner)


def _prune_config(opened: OpenedModel, mode: Mode, settings: CallSettings) -> PruneConfig | None:
    if mode.prune is None:
        return None
    stated = settings.prune
    scorer: Any = mode.prune
    if mode.prune == LEARNED:
        assert settings.pruner is not None, "checked with the run's settings"
        scorer = opened.learned_scorer(settings.pruner, allow_untested=settings.allow_untested_pruner)
    try:
        prune = PruneConfig(
            scorer=scorer,
            keep=stated.keep,
            stages=None if stated.stages is None else tuple(stated.stages),
            sinks=stated.sinks,
            local=stated.local,
            seed=settings.seed,
        )
        prune.resolve_stages(opened.facts["layers"])
    except ValueError as error:
        raise ConfigError(f"prune: {error}") from error
    return prune
