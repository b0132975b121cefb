"""The predictor of exits: for each layer that it knows a small network that says whether a candidate is final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from erecap.decoding.exits.candidates import FEATURES

WIDTH = 512


class ExitPredictor(nn.Module):
    """Networks 12-512-1, one for each of `layers`; `l` stands for the hidden state after `l` layers."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.networks = nn.ModuleDict(
            {str(n): nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)) for n in self.layers}
        )

    def forward(self, layer: int, features: torch.Tensor) -> torch.Tensor:
        """Probabilities `(...)` that the best candidate is the final token, from features `(..., 12)`."""
        return self.scores(layer, features).sigmoid()

    def scores(self, layer: int, features: torch.Tensor) -> torch.Tensor:
        """The same before the sigmoid."""
        scores: torch.Tensor = self.networks[str(layer)](features)[..., 0]
        return scores

    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.parameters())


@dataclass(frozen=True)
class TrainedExits:
    """A predictor with what it was trained to be used with."""

    predictor: ExitPredictor
    static: tuple[int, ...]  # layers where most tokens left in training
    threshold: float
    small: torch.Tensor  # (n,) int64: the small vocabulary
