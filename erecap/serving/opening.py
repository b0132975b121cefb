"""Opening of the model that a server answers with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.budget import Budget
from erecap.config.exits import Exit
from erecap.cost.machine import cost_key
from erecap.cost.store import load_cost_model
from erecap.errors import ConfigError
from erecap.language_models.following import check_servable, follow_along
from erecap.language_models.opened import ModelSettings, is_gguf, open_for
from erecap.parallel.start import rank, world
from erecap.registries import ENGINES, PRICED_DRAFTS
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession

OF_TESTS = "tiny"  # the engine that runs no language model


def engine_for(model: str, engine: str | None) -> str:
    """The engine of a server: the one that was asked for; else llama.cpp's for a GGUF file, and transformers.

    Raises:
        ConfigError: no engine of that name, one that does not run this model, or whose package is not installed.
    """
    if engine is None:
        engine = "llamacpp" if is_gguf(model) else "transformers"
    allowed = [name for name in ENGINES if name != OF_TESTS]
    if engine not in allowed:
        raise ConfigError(f"--engine: got {engine!r}; allowed: {', '.join(allowed)}")
    if is_gguf(model) and engine != "llamacpp":
        raise ConfigError(f"--engine: got {engine} with {Path(model).name}; a GGUF file runs on llamacpp")
    library = getattr(ENGINES[engine], "library", None)
    if library is not None:
        library()
    return engine


def follow_server(
    model: str,
    *,
    adapter: str | None,
    dtype: str,
    device: str,
    device_map: str | None,
    threads: int | None,
    layers: str | None,
    engine: str | None,
) -> bool:
    """Follow rank 0 until the server ends, on another rank; returns False on rank 0, and without `torchrun`.

    Raises:
        ConfigError: what a split model does not have, on every rank.
        ModelError, RankLost: as `follow_along`.
    """
    if world() == 1:
        return False
    settings = ModelSettings(model, adapter, dtype, device, threads, layers, device_map)
    check_servable(settings, engine_for(model, engine))
    if rank() == 0:
        return False
    follow_along(settings)
    return True


def open_engine(
    model: str,
    *,
    adapter: str | None,
    evict_by: str,
    budget: Budget,
    dtype: str,
    device: str,
    device_map: str | None = None,
    decode_weights: Any,
    threads: int | None,
    layers: str | None = None,
    thinking_first: bool = False,
    draft: bool | str = True,
    exit: Exit | None = None,
    engine: str | None = None,
    say: Callable[[str], None],
    **options: Any,
) -> Engine:
    """Load a model, and an engine on it.

    Args:
        model, adapter, dtype, device, device_map, decode_weights, threads, layers: as in a run's configuration.
        evict_by: what ranks the tokens of a conversation: recency, random, attention, or a trained pruner's name or
            folder.
        budget: of a conversation.
        thinking_first: as of `ReplanSession`.
        draft, exit: way to draft tokens while decoding, and early exit, as for `ReplanSession`.
        engine: holds keys and values and runs the model: see `engine_for`.
        say: takes lines for the person who waits.
        options: of `Engine`.

    Raises:
        ModelError: model, adapter, pruner or layer plan cannot be loaded.
        ConfigError: options that do not fit the model.
    """
    if exit is not None and not exit.lossless:
        raise ConfigError("--exit: lossless=false decodes greedily, and requests may ask for sampling; leave it out")
    engine = engine_for(model, engine)
    say(f"loading model {model}")
    opened = open_for(ModelSettings(model, adapter, dtype, device, threads, layers, device_map), engine)
    if budget.pays is not None and engine != "transformers":
        raise ConfigError(f"--pays: no cost model is calibrated for engine {engine}; leave it out")
    stored = None
    if engine == "transformers" and (budget.pays is not None or draft in PRICED_DRAFTS):
        stored = load_cost_model(cost_key(opened.model, decode_weights, weights=opened.cost_print))
    cost = stored if budget.pays is not None else None
    draft_cost = stored if draft in PRICED_DRAFTS else None

    def make_session() -> ReplanSession:
        return ReplanSession(
            opened.model,
            opened.tokenizer,
            budget=budget,
            evict_by=evict_by,
            thinking_first=thinking_first,
            draft=draft,
            decode_weights=decode_weights,
            cost=cost,
            draft_cost=draft_cost,
            exit=exit,
            engine=engine,
        )

    try:
        make_session()
        return Engine(opened.model, opened.tokenizer, make_session, **options)
    except ValueError as error:
        raise ConfigError(f"serve: {error}") from error
