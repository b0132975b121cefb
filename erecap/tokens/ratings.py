"""Scores that are taken once, when a token is read, and stay with it for as long as it is stored.

A causal model's hidden state of a token never changes, so neither does a score of it. Sessions rank what they evict by
these. The scores lie on the `PrunedCache`; the hooks, and the flat decoder, hand the hidden states over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from erecap.tokens.layout import Layout
from erecap.tokens.scorers import ScoreContext

NAME = "ratings.scores"  # of the tensor in a saved session


class ReadScorer(Protocol):
    """Scores tokens when they are read."""

    @property
    def layer(self) -> int:
        """The layer whose input is looked at."""
        ...

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` float32 from `hidden` `(batch, tokens, hidden_size)`."""
        ...


class Ratings:
    """The score of every token read, by its place. One sequence.

    Args:
        scorer: what scores; higher is kept longer.
        seed: handed to the scorer.
    """

    def __init__(self, scorer: ReadScorer, seed: int = 0) -> None:
        self.scorer = scorer
        self.seed = seed
        self._scores = torch.empty(0)  # -inf: read, but dropped before the scorer's layer

    @property
    def layer(self) -> int:
        """The layer whose input is looked at."""
        return self.scorer.layer

    def begin(self, first: int, tokens: int) -> None:
        """Tokens are about to be read at `tokens` places from `first` on; what was known of these is forgotten."""
        end = first + tokens
        if end > len(self._scores):
            room = torch.full((max(end, 2 * len(self._scores), 256) - len(self._scores),), -torch.inf)
            self._scores = torch.cat([self._scores, room])
        self._scores[first:end] = -torch.inf

    def take(self, live: Layout, hidden: torch.Tensor) -> None:
        """Score the tokens `live` from `hidden` `(1, tokens, hidden_size)`, the input of `layer`.

        Raises:
            FloatingPointError: a score is not finite.
        """
        context = ScoreContext(live.index, live.positions, live.valid, self.seed, None)
        scores = self.scorer.score(self.layer, hidden, context).detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(scores).all()):
            raise FloatingPointError(
                f"scorer {type(self.scorer).__name__} gave a non-finite score at layer {self.layer}"
            )
        self._scores[live.index[0].cpu()] = scores[0]

    def of(self, index: torch.Tensor) -> torch.Tensor:
        """Finite scores `(n,)` of the tokens at places `index` `(n,)`; those never scored come below all others."""
        scores = self._scores[index.cpu()]
        known = torch.isfinite(scores)
        lowest = float(scores[known].min()) if bool(known.any()) else 0.0
        return scores.masked_fill(~known, lowest - 1.0)

    def clear(self) -> None:
        """Forget all scores."""
        self._scores = torch.empty(0)

    def copy(self) -> Ratings:
        """An independent copy, with the same scorer."""
        twin = Ratings(self.scorer, self.seed)
        twin._scores = self._scores.clone()
        return twin

    def tensors(self, tokens: int) -> dict[str, torch.Tensor]:
        """The scores of the first `tokens` tokens, by a name that `restore` knows."""
        return {NAME: self._scores[:tokens].clone()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave.

        Raises:
            ValueError: there are no scores among the tensors.
        """
        if NAME not in tensors:
            raise ValueError("it was saved without scores, by a session that ranked its tokens in another way")
        self._scores = tensors[NAME].clone()
