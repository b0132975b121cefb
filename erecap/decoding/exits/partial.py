"""Reads through the first layers only, which later reads complete.

A token that stops before layer `l` has keys and values in layers 0 to `l - 1`, and its hidden state waits in the cache
(`PrunedCache.unfinished`), as that of a dropped token waits for its revival. Whoever goes deeper takes it along from
there, so each layer reads each token once, and in the end the cache holds what full reads would have stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.decoding.fused import FusedDecoder
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.ragged import Part

# (number of layers run, hidden state `(hidden_size,)` of the newest token after them) -> stop here
Stop = Callable[[int, torch.Tensor], bool]


@dataclass(frozen=True)
class Heads:
    """The head of a model and rows of it, for hidden states between layers.

    Args:
        decoder: reads for the model.
        model: whose head it is.
    """

    decoder: FusedDecoder
    model: Any

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last norm of hidden states `(..., hidden_size)`."""
        return self.decoder.normed(hidden)

    def whole(self, normed: torch.Tensor) -> torch.Tensor:
        """Logits `(n, vocabulary)` float32 of `normed` `(n, hidden_size)`."""
        return self.decoder.head(normed).float()

    def rows(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights `(n, hidden_size)` and biases `(n,)` of the tokens `ids` `(n,)`."""
        head = self.model.lm_head
        with torch.no_grad():
            bias = None if head.bias is None else head.bias.index_select(0, ids)
            return head.weight.index_select(0, ids), bias


def read_layers(
    decoder: FusedDecoder, cache: PrunedCache, ids: Sequence[int], start: int, stop: Stop | None = None
) -> torch.Tensor | None:
    """Read `ids`, which may be none, at positions from `start` on, and take unfinished tokens along.

    An exception leaves the cache as it was before.

    Args:
        stop: asked before each layer but the first for the newest of `ids`; true leaves all tokens that have come as
            far unfinished. None: everything is read to the end.

    Returns:
        Hidden states `(tokens, hidden_size)` after the last layer, of the unfinished tokens and `ids` in order; None
        where `stop` ended the read.
    """
    device, part = decoder.device, Part(cache, ids, start)
    masks: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        try:
            reading = cache.resume(part.positions(device))
            hidden = decoder.embedded(ids)
            ropes: dict[str | None, tuple] = {}
            of = None  # the layout that the angles are of
            for block in decoder.blocks:
                if block.number and stop is not None and stop(block.number, hidden[-1]):
                    reading.stop(block.number, hidden)
                    hidden = None
                    break
                hidden = reading.join(block.number, hidden)
                if not reading.live.width:
                    continue
                if of is not reading.live:
                    of, ropes = reading.live, decoder.ropes(hidden.unsqueeze(0), reading.live.positions)
                scores = cache.read_scores
                if scores is not None and scores.layer == block.number:
                    scores.take(reading.live, hidden.unsqueeze(0))
                hidden = block(hidden, ropes[block.rope], (part,), masks, None)
        except BaseException:  # also an interrupt: what layers have stored so far must not stay
            cache.rollback()
            raise
        cache.finish()
    return hidden
