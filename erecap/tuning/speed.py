"""Predicted speed-up of a pruned prefill over the full one, from the tokens that each layer reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from erecap.cost.flops import ModelShape, attention_scorer_flops, prefill_flops
from erecap.cost.model import CostModel, prefill_features


@dataclass(frozen=True)
class SpeedModel:
    """Predicts from a cost model that was fitted on this machine, or from counted FLOPs.

    A cost model knows the milliseconds of whole passes. Here each layer takes its share of one: a pass over `n`
    tokens on an empty cache costs a layer `1/L` of it, and a pruned read costs the sum over layers of what their
    own token counts cost. So embedding and head, once a read, shrink with the rest, and the prediction is an
    estimate, which measured times have to confirm. FLOPs count the head once.
    """

    shape: ModelShape
    scorer: str = "recency"  # `attention` and `learned` do arithmetic of their own, which is counted
    cost: CostModel | None = None

    @property
    def source(self) -> str:
        """The basis of the prediction: `calibration` or `FLOPs`."""
        return "FLOPs" if self.cost is None else "calibration"

    def price(self, counts: Sequence[float]) -> float:
        """Milliseconds, or FLOPs, of reading a prompt of which layer `l` reads `counts[l]` tokens.

        Raises:
            ValueError: not one count a layer, or a count above that of the layer before.
        """
        paid = self._ranking(counts)
        flops = prefill_flops(self.shape, counts, paid)
        if self.cost is None:
            return flops.total
        weights = self.cost.prefill
        total = 0.0
        for count in counts:
            features = prefill_features(count, 0)
            total += sum(weight * feature for weight, feature in zip(weights, features, strict=True))
        # The scorer's few FLOPs at the pace of the matrix products.
        pace = sum(weights[1:3]) / (self.shape.linear_flops_per_token * self.shape.layers)
        return total / self.shape.layers + paid * pace

    def _ranking(self, counts: Sequence[float]) -> float:
        """FLOPs of scoring the tokens at all stages that drop some."""
        if self.scorer == "attention":
            return attention_scorer_flops(self.shape, counts)
        if self.scorer != "learned":
            return 0.0
        inner = self.shape.hidden_size // 4  # as in erecap.tokens.scoring.learned.StageHead
        scored = sum(before for before, after in itertools.pairwise(counts) if after < before)
        return 2.0 * (self.shape.hidden_size * inner + inner) * scored

    def speed_up(self, kept: Sequence[Sequence[float]], lengths: Sequence[int]) -> float:
        """Price of reading prompts of `lengths` tokens whole, over that of the counts `kept`, one list a prompt."""
        full = sum(self.price([length] * self.shape.layers) for length in lengths)
        return full / sum(self.price(counts) for counts in kept)
