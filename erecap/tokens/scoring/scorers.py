"""Token scorers: one small class each. Higher scores are kept longer.

A score must depend only on what is known when the token is read, so that it is the same whatever is read later
and in whatever chunks; `attention`, which asks the newest token, is the exception and a baseline for that reason.
"""

from __future__ import annotations

import torch

from erecap.protocols import ScoreContext, TokenScorer
from erecap.registries import SCORERS


class RandomScorer:
    """Uniform scores, fixed by seed, layer and token index: the control at the same token budget."""

    needs_attention = False

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` in [0, 1); the same token has the same score in every chunk and batch row."""
        # A seeded generator would tie the score to the chunking. An integer hash of the index does not.
        # The multipliers are odd constants of splitmix64, cut to 31 bits so that int64 products cannot overflow.
        x = (ctx.index + 1 + 1_000_003 * (layer + 1) + (7_368_787 * (ctx.seed + 1) & 0x7FFFFFFF)) & 0x7FFFFFFF
        for multiplier in (0x45D9F3B, 0x119DE1F3):
            x = ((x ^ (x >> 16)) * multiplier) & 0x7FFFFFFF
        x = x ^ (x >> 16)
        return x.to(torch.float32) / float(1 << 31)


class RecencyScorer:
    """Newer tokens score higher: a truncated history keeps the same ones."""

    needs_attention = False

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)`: the index of each token."""
        return ctx.index.to(torch.float32)


class AttentionScorer:
    """Attention weights that the newest token gives each token in the layer before the stage, mean over heads.

    The criterion of FastV (arXiv 2403.06764), applied at every stage.
    """

    needs_attention = True

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)`: attention weights, summing to at most 1 over a row."""
        if ctx.attention_mass is None:
            raise RuntimeError(f"attention mass was not taken before layer {layer}; this is a bug in the hooks")
        return ctx.attention_mass


def make_scorer(scorer: str | TokenScorer) -> TokenScorer:
    """The scorer of that name, or the object itself if it is one already.

    Raises:
        ValueError: unknown name.
        TypeError: an object without `score` and `needs_attention`.
    """
    if isinstance(scorer, str):
        if scorer not in SCORERS:
            raise ValueError(f"unknown scorer {scorer!r}; known: {', '.join(sorted(SCORERS))}")
        return SCORERS[scorer]()
    if not callable(getattr(scorer, "score", None)) or not hasattr(scorer, "needs_attention"):
        raise TypeError(f"a scorer needs score(layer, hidden, ctx) and needs_attention, got {type(scorer).__name__}")
    return scorer
