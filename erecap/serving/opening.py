"""Opens the model that a server answers with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erecap.budget import Budget
from erecap.cost.machine import cost_key
from erecap.cost.store import load_cost_model
from erecap.errors import ConfigError
from erecap.models import describe_adapter, fingerprint, load, locate
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession


def open_engine(
    model: str,
    *,
    adapter: str | None,
    pruner: str | None,
    budget: Budget,
    dtype: str,
    device: str,
    decode_weights: Any,
    threads: int | None,
    say: Callable[[str], None],
    **options: Any,
) -> Engine:
    """Load a model, and an engine on it.

    Args:
        model, adapter, pruner, dtype, device, decode_weights, threads: as in a run's configuration.
        budget: of a conversation.
        say: takes lines for the person who waits.
        options: of `Engine`.

    Raises:
        ModelError: model, adapter or pruner cannot be loaded.
        ConfigError: options that do not fit the model.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    say(f"loading model {model}")
    loaded, tokenizer = load(model, dtype, device, adapter=adapter)
    ranks: Any = "recency"
    if pruner is not None:
        from erecap.tokens.scoring.learned import LearnedScorer
        from erecap.tokens.scoring.pruner_files import load_pruner

        shape = loaded.config.get_text_config(decoder=True)
        ranks = LearnedScorer(
            load_pruner(
                pruner,
                hidden_size=shape.hidden_size,
                layers=shape.num_hidden_layers,
                base=fingerprint(locate(model)),
                adapter=describe_adapter(adapter)["hash"] if adapter is not None else None,
            )
        )
    cost = None
    if budget.pays is not None:
        cost = load_cost_model(cost_key(loaded, decode_weights, weights=fingerprint(locate(model))))

    def make_session() -> ReplanSession:
        return ReplanSession(loaded, tokenizer, budget=budget, evict_by=ranks, decode_weights=decode_weights, cost=cost)

    try:
        make_session()
        return Engine(loaded, tokenizer, make_session, **options)
    except ValueError as error:
        raise ConfigError(f"serve: {error}") from error
