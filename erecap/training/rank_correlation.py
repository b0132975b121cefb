"""Rank correlation of predicted and measured importance."""

from __future__ import annotations

import torch


def standardised(values: torch.Tensor) -> torch.Tensor:
    """`values` `(..., tokens)` with mean 0 and deviation 1 over the tokens; 0 where all are equal."""
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt()


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's rank correlation of two vectors `(n,)`; ties share their mean rank; 0 where one is constant."""
    a, b = standardised(_ranks(one)), standardised(_ranks(other))
    return float((a * b).mean()) if len(a) > 1 else 0.0


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks `(n,)` float64, ties sharing their mean."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]
