"""Models of transformers that no session can serve, at all or with its settings."""

from __future__ import annotations

from typing import Any

import transformers
from packaging.version import Version

from erecap.engines.protocol import EngineSettings
from erecap.engines.rope_lengths import follows_length, past_switch
from erecap.tokens.cache.ropes import window_of
from erecap.tokens.hooks import attention_layers, find_decoder
from erecap.tokens.scoring.scorers import make_scorer
from erecap.tokens.servable import INSTEAD, attention_problem, prune_problem, read_problem

LENGTHS_FROM = "5.20"  # transformers, whose `generate` reads anew where rotary embeddings change


def refuse_unservable(model: Any) -> None:
    """Refuse a model whose forward passes cannot be made in pieces, or cannot be made at all.

    Raises:
        ValueError: an adapter that puts virtual tokens before what is read, or weights without values.
    """
    adapters = getattr(model, "peft_config", None) or {}
    for name, config in adapters.items() if isinstance(adapters, dict) else ():
        if getattr(config, "is_prompt_learning", False):
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            raise ValueError(
                f"the adapter {name!r} is of the kind {kind}, which puts virtual tokens before every forward pass; a "
                "session reads in pieces and serves adapters of layers, such as LORA: merge or leave out this one"
            )
    placed = any(hasattr(module, "_hf_hook") for module in model.modules())
    empty = next((name for name, weight in model.named_parameters() if weight.device.type == "meta"), None)
    if empty is not None and not placed:
        raise ValueError(f"the weight {empty} is on the device meta, which holds no values; load the model first")


def _too_old(model: Any) -> str | None:
    """Reason why this transformers does not say when a model whose rotary embeddings change has to read anew."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = getattr(type(base), "prepare_inputs_for_generation", None)
    reads_anew = own is not None and own is not transformers.GenerationMixin.prepare_inputs_for_generation
    if not reads_anew or Version(transformers.__version__) >= Version(LENGTHS_FROM):
        return None
    return (
        f"{type(model).__name__} changes its rotary embeddings within its window, which a session without a budget "
        f"follows from transformers {LENGTHS_FROM} on, got {transformers.__version__}; give a budget below that place"
    )


def problem_with(model: Any, settings: EngineSettings) -> str | None:
    """Reason why the engine cannot serve `model` with these settings, in one sentence."""
    problem = read_problem(model)
    if problem is None and window_of(find_decoder(model).config) is None:
        problem = f"{type(model).__name__} names no window (max_position_embeddings); {INSTEAD}"
    if problem is None and follows_length(model) and settings.kv_tokens is not None:
        problem = past_switch(model, settings.kv_tokens)
    if problem is None and follows_length(model) and not settings.evicts and settings.prune is None:
        problem = _too_old(model)
    if problem is None and settings.prune is not None:
        by_attention = make_scorer(settings.prune.scorer).needs_attention
        problem = prune_problem(model, by_attention)
        if problem is None and by_attention:
            decoder = find_decoder(model)
            attention_layers(decoder, settings.prune.resolve_stages(len(decoder.layers)))
    if problem is None and settings.evict_by == "attention":
        problem = attention_problem(model)
    return problem
