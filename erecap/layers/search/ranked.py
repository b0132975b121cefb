"""Methods that rank once: block influence (ShortGPT), magnitude of the weights, and chance."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from erecap.layers.decoder import planned_decoder
from erecap.layers.search.change import Change
from erecap.layers.search.options import uses
from erecap.layers.search.search import Search
from erecap.layers.search.steps import Step, Sublayer, sublayers_of
from erecap.layers.search.streams import ATTRIBUTES

Part = tuple[Sublayer, ...]


@uses("batch_tokens")
def shortgpt(search: Search) -> Iterator[Step]:
    """ShortGPT: remove blocks by influence, 1 - cos of the hidden states in front and behind (Men et al., 2024)."""
    with search.uncounted(bool(search.steps)):
        influence = block_influence(search)
    blocks = [(Sublayer(layer, "attention"), Sublayer(layer, "mlp")) for layer in range(search.layers)]
    yield from _in_order(search, blocks, influence)


@uses()
def magnitude(search: Search) -> Iterator[Step]:
    """Remove the sublayers with the smallest weights: geometric mean over matrices of their root mean square."""
    sublayers, layers = sublayers_of(search.layers), planned_decoder(search.model).layers
    sizes = [weight_size(getattr(layers[one.layer], ATTRIBUTES[one.kind])) for one in sublayers]
    yield from _in_order(search, [(one,) for one in sublayers], sizes)


@uses()
def chance(search: Search) -> Iterator[Step]:
    """Remove sublayers in an order drawn from the seed."""
    order = list(sublayers_of(search.layers))
    random.Random(search.seed).shuffle(order)
    yield from _in_order(search, [(one,) for one in order], range(len(order)))


def _in_order(search: Search, parts: Sequence[Part], scores: Sequence[float]) -> Iterator[Step]:
    """Steps by rising score, equal ones by place, without the last attention."""
    for _, place in sorted((score, place) for place, score in enumerate(scores)):
        part, allowed = parts[place], search.removable()
        gone = not set(part) & set(search.live())
        fits = part in search.blocks() if len(part) > 1 else part[0] in allowed
        if not gone and fits:
            yield Step(part, float(scores[place]))


@torch.no_grad()
def block_influence(search: Search) -> list[float]:
    """Of each block of the dense model, the mean over tokens of 1 - cos of the hidden states in front and behind."""
    streams = search.streams
    found = [Change("cosine", "token") for _ in range(search.layers)]
    for batch in streams.batches:
        stream = batch.stream
        for layer, change in enumerate(found):
            behind = streams.run(search.dense, batch, stream, layer, layer + 1)
            change.add(stream, behind)
            stream = behind
    search.count(1)
    return [change.value() for change in found]


def weight_size(part: nn.Module) -> float:
    """Geometric mean, over the matrices of a sublayer, of their root mean square; 0 where one matrix is zero."""
    sizes = [float(weight.detach().double().square().mean().sqrt()) for weight in part.parameters() if weight.ndim == 2]
    product = 1.0
    for size in sizes:
        product *= size ** (1 / len(sizes))
    return product
