"""Activation checkpoints: hidden states kept before some layers, and recomputed from the nearest one elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from erecap.layers.search.streams import Streams


class Walk:
    """Hidden states of one model in front of any layer, for each batch.

    Args:
        streams: the batches, and what runs a layer.
        layers: of the model.
        count: layers before which hidden states are kept, evenly spaced; those before layer 0 are always there.
    """

    def __init__(self, streams: Streams, layers: nn.ModuleList, count: int) -> None:
        self._streams, self._layers = streams, layers
        spaced = {round(number * len(layers) / (count + 1)) for number in range(1, count + 1)}
        self.places = tuple(sorted(spaced - {0, len(layers)}))
        self._kept: dict[tuple[int, int], torch.Tensor] = {}
        self._last: tuple[int, int, torch.Tensor] | None = None  # batch, layer, hidden states

    def at(self, batch: int, layer: int) -> torch.Tensor:
        """Hidden states of a batch in front of `layer`; behind all layers for their number."""
        start, stream = 0, self._streams.batches[batch].stream
        for place in self.places:
            if place <= layer and (batch, place) in self._kept:
                start, stream = place, self._kept[batch, place]
        if self._last is not None and self._last[0] == batch and start <= self._last[1] <= layer:
            _, start, stream = self._last
        for end in (*(place for place in self.places if start < place < layer), layer):
            stream = self._streams.run(self._layers, self._streams.batches[batch], stream, start, end)
            start = end
            if end in self.places:
                self._kept[batch, end] = stream
        self._last = (batch, layer, stream)
        return stream

    def fill(self, layer: int) -> None:
        """Compute what is kept before layers up to `layer`."""
        for batch in range(len(self._streams.batches)):
            self.at(batch, max((place for place in self.places if place <= layer), default=0))
        self.rest()

    def changed(self, layer: int) -> None:
        """Forget all that a change within `layer` made wrong."""
        self._kept = {key: stream for key, stream in self._kept.items() if key[1] <= layer}
        self.rest()

    def rest(self) -> None:
        """Forget where the last walk ended, so that the next costs the same after any other."""
        self._last = None
