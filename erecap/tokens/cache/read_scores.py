"""Importance scores that are taken once, when a token is read, and stay with it while it is stored.

A causal model's hidden state of a token never changes, so neither does a score of it. Sessions rank what they evict by
these. The scores lie on the `PrunedCache`; the hooks, and the fused decoder, hand the hidden states over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from erecap.protocols import ScoreContext
from erecap.tokens.cache.layout import Layout

PLACES, SCORES = "ratings.places", "ratings.scores"  # names of the tensors in a saved session


def late(hidden: torch.Tensor) -> bool:
    """Return True if scores of `hidden` are looked at later than they are taken."""
    return hidden.device.type != "cpu"


class ReadScorer(Protocol):
    """Scores tokens when they are read.

    A scorer may also have an attribute `age_weight`, 0 where it has none: a session ranks tokens by
    `score - age_weight * log(age)`, the age counted in tokens read since. What a token says, a score can tell when it
    is read; how long ago that was, only the session knows.
    """

    @property
    def layer(self) -> int:
        """The layer whose input is scored."""
        ...

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` float32 from `hidden` `(batch, tokens, hidden_size)`."""
        ...


class ReadScores:
    """The importance scores of the stored tokens, by their indices. One sequence.

    Args:
        scorer: what scores; higher is kept longer.
        seed: handed to the scorer.
    """

    def __init__(self, scorer: ReadScorer, seed: int = 0) -> None:
        self.scorer = scorer
        self.seed = seed
        self.clear()

    @property
    def layer(self) -> int:
        """The layer whose input is scored."""
        return self.scorer.layer

    def begin(self, first: int, tokens: int) -> None:
        """Prepare for a read of `tokens` tokens from index `first` on; earlier scores of these are forgotten."""
        self._settle()
        before = int(torch.searchsorted(self._places, first))
        places = torch.cat([self._places[:before], torch.arange(first, first + tokens, device="cpu")])
        scores = torch.cat([self._scores[:before], _unscored((tokens,))])
        self._places, self._scores = places, scores

    def take(self, live: Layout, hidden: torch.Tensor) -> None:
        """Score the tokens `live` from `hidden` `(1, tokens, hidden_size)`, the input of `layer`.

        On an accelerator the scores are looked at when somebody asks for them, or the next tokens are read: waiting for
        them in the middle of the model would cost more than scoring.

        Raises:
            FloatingPointError: a score is not finite (there: raised later, by whatever looks at them).
        """
        context = ScoreContext(live.index, live.positions, live.valid, self.seed, None)
        self._taken.append((live.index[0], self.scorer.score(self.layer, hidden, context).detach()[0]))
        if not late(hidden):
            self._settle()

    def _settle(self) -> None:
        while self._taken:
            index, scores = self._taken[0]
            self._note(index.cpu(), scores.to("cpu", torch.float32))
            del self._taken[0]  # not before: one that is not finite is an error whenever somebody looks

    def _note(self, index: torch.Tensor, scores: torch.Tensor) -> None:
        if not bool(torch.isfinite(scores).all()):
            raise FloatingPointError(
                f"scorer {type(self.scorer).__name__} gave a non-finite score at layer {self.layer}"
            )
        row, known = self._rows(index)
        self._scores[row[known]] = scores[known]

    def of(self, index: torch.Tensor, end: int) -> torch.Tensor:
        """Finite scores `(n,)` of the tokens with indices `index` `(n,)`, less what age takes off them.

        Those never scored come below all others.

        Args:
            end: the index behind the newest token, to count ages from.
        """
        self._settle()
        row, known = self._rows(index.cpu())
        scores = _unscored(row.shape)
        scores[known] = self._scores[row[known]]
        scores -= getattr(self.scorer, "age_weight", 0.0) * (end - index.cpu()).to(scores.dtype).log()
        scored = torch.isfinite(scores)
        lowest = float(scores[scored].min()) if bool(scored.any()) else 0.0
        return scores.masked_fill(~scored, lowest - 1.0)

    def keep(self, index: torch.Tensor) -> None:
        """Forget all scores but those of the token indices `index` `(n,)`: only stored tokens are ranked."""
        self._settle()
        stay = torch.isin(self._places, index.cpu())
        places, scores = self._places[stay], self._scores[stay]
        self._places, self._scores = places, scores

    def clear(self) -> None:
        """Forget all scores."""
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []  # indices and scores, maybe still being computed
        self._places = torch.empty(0, dtype=torch.long, device="cpu")  # sorted
        self._scores = _unscored((0,))  # -inf: read, but dropped before the scorer's layer

    def copy(self) -> ReadScores:
        """An independent copy, with the same scorer."""
        self._settle()
        twin = ReadScores(self.scorer, self.seed)
        twin._places, twin._scores = self._places.clone(), self._scores.clone()
        return twin

    def tensors(self, tokens: int) -> dict[str, torch.Tensor]:
        """Indices and scores of the tokens before index `tokens`, by names that `restore` knows."""
        self._settle()
        end = int(torch.searchsorted(self._places, tokens))
        return {PLACES: self._places[:end].clone(), SCORES: self._scores[:end].clone()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave.

        Raises:
            ValueError: there are no scores among the tensors.
        """
        if PLACES not in tensors or SCORES not in tensors:
            raise ValueError("it was saved without scores, by a session that ranked its tokens in another way")
        self._places, self._scores = tensors[PLACES].clone(), tensors[SCORES].clone()

    def _rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranks of the token indices `index` `(n,)` among those known, and `(n,)` bool: True where known."""
        row = torch.searchsorted(self._places, index)
        inside = row < len(self._places)
        known = inside.clone()
        known[inside] = self._places[row[inside]] == index[inside]
        return row, known


def _unscored(shape: tuple[int, ...]) -> torch.Tensor:
    """Scores of tokens that nobody has scored; the caller's default dtype and device have no say in it."""
    return torch.full(shape, -torch.inf, dtype=torch.float32, device="cpu")
