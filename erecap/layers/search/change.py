"""Relative change of hidden states: l1, l2 or cosine distance, of sentences, tokens or channels."""

from __future__ import annotations

import torch

_DIMS = {"sentence": (1, 2), "token": (2,), "channel": (0, 1)}


class Change:
    """The change of hidden states against the dense model's, over several batches.

    A vector is a whole sequence, one token's hidden state, or one channel over all tokens. Its change is the distance
    over the norm of the dense vector (l1, l2), or 1 - cos of both (cosine). The value is their mean.

    Args:
        metric: `l1`, `l2` or `cosine`.
        over: `sentence`, `token` or `channel`.
    """

    def __init__(self, metric: str, over: str) -> None:
        self._metric, self._over = metric, over
        self._sums: list[torch.Tensor] = []  # of channels, which reach over batches
        self._total, self._count = 0.0, 0

    def add(self, dense: torch.Tensor, other: torch.Tensor) -> None:
        """Take in hidden states `(sequences, tokens, hidden_size)` of both models."""
        y, z = dense.double(), other.double()
        if self._metric == "l1":
            parts = [(z - y).abs(), y.abs()]
        elif self._metric == "l2":
            parts = [(z - y).square(), y.square()]
        else:
            parts = [y * z, y.square(), z.square()]
        sums = [part.sum(_DIMS[self._over]) for part in parts]
        if self._over == "channel":
            self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums
            return
        changes = self._changes(sums)
        self._total += float(changes.sum())
        self._count += changes.numel()

    def value(self) -> float:
        """The mean change; not finite where hidden states were not."""
        if self._over == "channel":
            return float(self._changes(self._sums).mean())
        return self._total / self._count

    def _changes(self, sums: list[torch.Tensor]) -> torch.Tensor:
        tiny = torch.finfo(torch.float64).tiny
        if self._metric == "cosine":
            product, dense, other = sums
            same = (dense == 0) & (other == 0)  # two vectors of zeros
            return torch.where(same, 0.0, 1 - product / (dense * other).sqrt().clamp_min(tiny))
        distance, norm = sums
        ratio = distance / norm.clamp_min(tiny)
        return ratio if self._metric == "l1" else ratio.sqrt()
