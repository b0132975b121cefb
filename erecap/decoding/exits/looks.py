"""Looks at a hidden state between layers: may the token leave here, and as which?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from erecap.decoding.exits.candidates import Slice, features
from erecap.decoding.exits.partial import Heads
from erecap.decoding.exits.predictor import TrainedExits
from erecap.decoding.exits.schedule import Schedule


class Judge(Protocol):
    """Names tokens between layers."""

    needs_slice: bool  # whether it looks at rows of the head, where there is no grammar

    def layers(self) -> tuple[int, ...]:
        """Layers to look at for the next token, rising; at least one."""
        ...

    def fresh(self) -> Look:
        """The look at the next token."""
        ...

    def left(self, layer: int) -> None:
        """Note that a token left after `layer` layers."""
        ...

    def copy(self) -> Judge:
        """An independent judge that has seen the same."""
        ...


class Look(Protocol):
    """Looks at one token, layer after layer."""

    def named(self, layer: int, logits: torch.Tensor, among: Slice | None) -> int | None:
        """The token to leave with; None: not here.

        Args:
            layer: layers run.
            logits: `(n,)` float32 of the tokens `among`; None: of the whole vocabulary.
        """
        ...


class PredictorJudge:
    """Asks a trained predictor at scheduled layers."""

    needs_slice = True

    def __init__(self, trained: TrainedExits, schedule: Schedule, threshold: float) -> None:
        self.trained, self.threshold = trained, threshold
        self._schedule = schedule

    def layers(self) -> tuple[int, ...]:
        """The scheduled layers."""
        return self._schedule.layers()

    def fresh(self) -> Look:
        """A look that remembers the logits of the last layer looked at."""
        return _PredictorLook(self)

    def left(self, layer: int) -> None:
        """Look around this layer from now on."""
        self._schedule.left(layer)

    def copy(self) -> PredictorJudge:
        """An independent judge on the same predictor."""
        return PredictorJudge(self.trained, self._schedule.copy(), self.threshold)


class _PredictorLook:
    def __init__(self, judge: PredictorJudge) -> None:
        self._judge = judge
        self._last: torch.Tensor | None = None

    def named(self, layer: int, logits: torch.Tensor, among: Slice | None) -> int | None:
        """As `Look.named`."""
        assert among is not None, "a predictor judges candidates"
        best = among.best(logits)
        found = features(logits[best], None if self._last is None else self._last[best])
        self._last = logits
        if not float(self._judge.trained.predictor(layer, found.cpu())) >= self._judge.threshold:
            return None
        return int(among.ids[best[0]])


class ConfidenceJudge:
    """The first layers name every token that they give a probability of at least `threshold`."""

    needs_slice = False

    def __init__(self, layer: int, threshold: float) -> None:
        self._layer, self._threshold = layer, threshold

    def layers(self) -> tuple[int, ...]:
        """One layer, always the same."""
        return (self._layer,)

    def fresh(self) -> Look:
        """The judge itself: it remembers nothing."""
        return self

    def named(self, layer: int, logits: torch.Tensor, among: Slice | None) -> int | None:
        """As `Look.named`."""
        probability, place = logits.softmax(0).max(0)
        if not float(probability) >= self._threshold:
            return None
        return int(place) if among is None else int(among.ids[place])

    def left(self, layer: int) -> None:
        """Nothing is learned from it."""

    def copy(self) -> ConfidenceJudge:
        """The judge itself."""
        return self


class SliceOf:
    """Rows of the head for the slices of one answer; those of the small vocabulary are taken once.

    Args:
        heads: of the decoder that reads.
        small: `(n,)`, the small vocabulary; None: there is none.
    """

    def __init__(self, heads: Heads, small: torch.Tensor | None) -> None:
        self.heads = heads
        self._small = small
        self._small_rows = None if small is None else heads.rows(small)

    def free(self, followers: Sequence[int], banned: Sequence[int]) -> tuple[Slice, torch.Tensor, torch.Tensor | None]:
        """The slice where no grammar holds, with weights and biases: `followers` first, then the small vocabulary."""
        assert self._small is not None and self._small_rows is not None
        device = self._small.device
        first = torch.tensor([token for token in followers if token not in banned], dtype=torch.long, device=device)
        stay = ~torch.isin(self._small, torch.cat([first, first.new_tensor(list(banned))]))
        weight, bias = self.heads.rows(first)
        small_weight, small_bias = self._small_rows
        whole = bool(stay.all())
        ids = torch.cat([first, self._small if whole else self._small[stay]])
        weight = torch.cat([weight, small_weight if whole else small_weight[stay]])
        if bias is not None and small_bias is not None:
            bias = torch.cat([bias, small_bias if whole else small_bias[stay]])
        return Slice(ids, len(first)), weight, bias

    def allowed(self, ids: Sequence[int]) -> tuple[Slice, torch.Tensor, torch.Tensor | None]:
        """The slice of the tokens that a grammar allows, with weights and biases."""
        index = torch.tensor(sorted(ids), dtype=torch.long, device=self.heads.decoder.device)
        return Slice(index), *self.heads.rows(index)
