"""Tokens that each layer will read, counted before any prefill: no scorer changes them. No torch in here."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from erecap.tokens.scoring.schedule import PruneConfig, stage_count
from erecap.tuning.candidates import Stages
from erecap.tuning.samples import Sample


class Counts:
    """Tokens that each layer reads of the prompts of `samples`, by stage set.

    A stage leaves `ceil(keep * tokens)`, but never fewer than are protected: the first tokens, the sample's spans, and
    the newest share of what is there. Which of the others stay is the scorer's choice, how many is not. So a stage
    that finds nothing left to drop does nothing.

    Args:
        samples: planning calls.
        layers: decoder layers of the model.
        config: `keep`, `sinks` and `local` of the reads; its stages do not matter.
    """

    def __init__(self, samples: Sequence[Sample], layers: int, config: PruneConfig) -> None:
        self.layers, self.config = layers, config
        self._lengths = [len(sample.prompt) for sample in samples]
        self._fixed = [
            sorted({*range(min(config.sinks, len(s.prompt))), *(n for span in s.protect for n in range(*span))})
            for s in samples
        ]
        self._known: dict[Stages, tuple[tuple[int, ...], ...]] = {}

    def __call__(self, stages: Stages) -> tuple[tuple[int, ...], ...]:
        """For each sample, one count a layer."""
        if stages not in self._known:
            self._known[stages] = tuple(
                self._one(stages, length, fixed) for length, fixed in zip(self._lengths, self._fixed, strict=True)
            )
        return self._known[stages]

    def nearly(self, stages: Stages) -> tuple[tuple[int, ...], ...]:
        """The counts in whole percent of the prompts: equal for sets that hardly differ in effect."""
        counts = self(stages)
        return tuple(
            tuple(round(100 * count / length) for count in own)
            for own, length in zip(counts, self._lengths, strict=True)
        )

    def _one(self, stages: Stages, length: int, fixed: Sequence[int]) -> tuple[int, ...]:
        counts, current, drops = [], length, set(stages)
        for layer in range(self.layers):
            if layer in drops:
                newest = max(1, math.ceil(self.config.local * current - 1e-9))
                # The newest tokens are the last ones of the prompt, as every stage keeps them.
                protected = newest + bisect_left(fixed, length - newest)
                current = stage_count(current, self.config.keep, protected)
            counts.append(current)
        return tuple(counts)
