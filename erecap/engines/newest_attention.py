"""Attention weights that the newest token of a prompt gave each stored token: what `evict_by="attention"` ranks by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.scoring import probe


@dataclass(frozen=True)
class NewestAttention:
    """The weights of one prompt's newest token, mean over layers.

    Attributes:
        index: `(n,)` indices of the tokens that were stored then, rising; the newest token is the last.
        weights: `(n,)` float32.
    """

    index: np.ndarray
    weights: np.ndarray

    @classmethod
    def of_layers(cls, cache: PrunedCache, masses: Mapping[int, torch.Tensor]) -> NewestAttention:
        """The mean of what `collecting` found in each layer of `cache`."""
        index = cache.stored_index().cpu()
        total = torch.zeros(len(index), dtype=torch.float32, device="cpu")
        for layer, mass in masses.items():
            column = torch.searchsorted(index, cache.layout(layer).index[0].cpu())
            total.index_add_(0, column, mass[0].float().cpu() / len(masses))
        return cls(index.numpy(), total.numpy())

    @property
    def newest(self) -> int:
        """Index of the token that was asked."""
        return int(self.index[-1])

    def scores(self, indices: np.ndarray) -> np.ndarray:
        """Scores `(n,)` float32 of stored tokens."""
        # Tokens generated since have not been asked about; they are the newest, and rank first.
        scores = np.ones(len(indices), np.float32)
        column = np.searchsorted(self.index, indices).clip(max=len(self.index) - 1)
        # Tokens that were not stored then, and were prefilled again since, got nothing.
        scores[indices <= self.newest] = 0.0
        known = self.index[column] == indices
        scores[known] = self.weights[column[known]]
        return scores


@contextmanager
def collecting(wanted: bool) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the attention weights of the newest token by layer, where they are wanted."""
    masses: dict[int, torch.Tensor] = {}
    probe.current.collect = masses if wanted else None
    try:
        yield masses
    finally:
        probe.current.collect = None
