"""Loss on the calibration text without one part at a time, and two methods that remove the part that costs least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

import torch

from erecap.errors import RunError
from erecap.layers.search.options import uses
from erecap.layers.search.search import Search
from erecap.layers.search.steps import Step, Sublayer
from erecap.layers.search.streams import without

Part = tuple[Sublayer, ...]


@uses("batch_tokens", "loss_sequences")
def sleb(search: Search) -> Iterator[Step]:
    """SLEB: remove the block without which the loss is least, again and again (Song et al., 2024)."""
    while parts := search.blocks():
        yield _least(search, parts)


@uses("batch_tokens", "loss_sequences")
def blockpruner(search: Search) -> Iterator[Step]:
    """BlockPruner: remove the sublayer without which the perplexity is least, again and again (Zhong et al., 2024)."""
    while sublayers := search.removable():
        yield _least(search, [(sublayer,) for sublayer in sublayers])


def _least(search: Search, parts: Sequence[Part]) -> Step:
    found = losses(search, parts)
    place = min(range(len(parts)), key=lambda number: (found[number], number))
    return Step(parts[place], found[place])


@torch.no_grad()
def losses(search: Search, parts: Sequence[Part]) -> list[float]:
    """Negative log-likelihood, mean over tokens, of the changed model without each of `parts`, one at a time.

    All of a part lies in one layer. What comes before that layer is computed once for all parts.
    """
    streams, layers = search.streams, search.changed
    totals = [0.0] * len(parts)
    last = max(part[0].layer for part in parts)
    for batch in streams.batches:
        stream = batch.stream
        for layer in range(last + 1):
            for number, part in enumerate(parts):
                if part[0].layer == layer:
                    with without(layers, part):
                        totals[number] += streams.loss(batch, streams.run(layers, batch, stream, layer, search.layers))
            stream = streams.run(layers, batch, stream, layer, layer + 1)
    tokens = streams.tokens - sum(len(batch.ids) for batch in streams.batches)
    wrong = next((part for part, total in zip(parts, totals, strict=True) if not isfinite(total)), None)
    if wrong is not None:
        raise RunError(f"without {', '.join(map(str, wrong))}, the loss is not finite; try --dtype float32")
    search.count(len(parts))
    return [total / tokens for total in totals]
