"""The context managers under which a model prunes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from erecap.tokens import hooks
from erecap.tokens.cache.pruned_cache import PrunedCache, Spans
from erecap.tokens.compiled import without_compiled_layers
from erecap.tokens.scoring import probe
from erecap.tokens.scoring.schedule import PruneConfig

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def prune(
    model: nn.Module, config: PruneConfig | None = None, *, protect: Spans | Sequence[Spans] | None = None
) -> Iterator[PrunedCache]:
    """Prune tokens while `model` reads the prompt; decoding continues from what was kept.

    Example:
        with erecap.prune(model, erecap.PruneConfig(scorer="recency", keep=0.7)) as cache:
            output = model.generate(**inputs, past_key_values=cache)
        print(cache.kept_lengths())

    Args:
        model: a causal language model of transformers.
        config: scorer, keep ratio and stages; the defaults if None.
        protect: spans `(start, end)` of prompt tokens that no stage drops (one list, or one per batch row).

    Yields:
        The cache to pass as `past_key_values`. It is armed for the first read: one forward call, the prefill.
        `logits` of that call have one row per token that reached the last layer; the last row is the newest token.

    Raises:
        ValueError: a model without decoder layers, stages that do not fit it, or an attention implementation
            that pruning does not know.
    """
    decoder = hooks.find_decoder(model)
    cache = PrunedCache(config or PruneConfig(), len(decoder.layers), protect)
    with attach(model, cache):
        yield cache


@contextmanager
def attach(model: nn.Module, cache: PrunedCache, *, attention: bool = False) -> Iterator[PrunedCache]:
    """Put the hooks on `model` so that `cache` can be used with it (again). Leaves the model as it was.

    A model that torch.compile has made code for runs its own modules within.

    Args:
        attention: run attention through the probe although the cache's scorer does not ask for it.
    """
    if cache.scorer.needs_attention:
        hooks.attention_layers(hooks.find_decoder(model), cache.stages)  # refused before anything is read
    user = hooks.User(attention or cache.scorer.needs_attention)
    try:
        hooks.acquire(model, user)
        probe.current.caches[user] = cache
        with without_compiled_layers(model):
            yield cache
    finally:
        try:
            probe.current.caches.pop(user, None)
            hooks.release(model, user)
        finally:
            # A read that was interrupted between two layers must not stay half stored.
            cache.rollback()
