"""Losses and measures of a pruner beside its task: standardised regression, ranks of pairs, Spearman."""

from __future__ import annotations

import torch
from torch.nn import functional

from erecap.training.rank_correlation import standardised

PAIRS = 512  # pairs of tokens drawn for the ranking term of one sample and stage


def targets(saliency: torch.Tensor) -> torch.Tensor:
    """Saliency `(..., tokens)` as regression target: its logarithm, standardised over the tokens.

    Saliency spans orders of magnitude, and what counts is the order: without the logarithm a handful of tokens would be
    all of the loss. 1e-3 of the mean is where the logarithm levels off.
    """
    scale = saliency.mean(-1, keepdim=True).clamp(min=torch.finfo(saliency.dtype).tiny)
    return standardised((saliency / scale + 1e-3).log())


def regression(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of standardised scores `(tokens,)` against standardised targets `(tokens,)`."""
    return functional.mse_loss(standardised(scores), wanted)


def ranking(scores: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean of `log(1 + exp(-(p_i - p_j) * sign(s_i - s_j)))` over random pairs of tokens, p the scores `(tokens,)`."""
    pairs = torch.randint(len(scores), (2, PAIRS), generator=generator).to(scores.device)
    signs = (wanted[pairs[0]] - wanted[pairs[1]]).sign()
    terms = functional.softplus(-(scores[pairs[0]] - scores[pairs[1]]) * signs)
    # Pairs of equal saliency have no order to learn.
    return (terms * signs.abs()).sum() / signs.abs().sum().clamp(min=1)
