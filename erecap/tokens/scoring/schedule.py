"""The stage schedule: layers that drop tokens and the number that each keeps, as numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from erecap.registries import LEARNED, PRESETS, SCORERS, SINKS

if TYPE_CHECKING:
    from erecap.protocols import TokenScorer


@dataclass(frozen=True)
class PruneConfig:
    """Settings of token pruning at prefill.

    A stage at layer `l` drops tokens before layer `l` runs. The defaults are those published for SDTP
    (stages at layers 4, 7, 10, ...; the first 4 tokens and the newest 10 % always kept).

    Raises:
        ValueError: `keep` outside (0, 1], `local` outside [0, 1], negative `sinks` or `park_tokens`, a stage below 1,
            stages that do not rise, or an unknown scorer name.
    """

    scorer: str | TokenScorer = "recency"  # a name of `erecap.registries.SCORERS`, or any object with `score`
    keep: float = 0.7  # share of the current tokens that each stage keeps
    stages: tuple[int, ...] | None = None  # layers before which tokens are dropped; None: range(4, L-2, 3)
    sinks: int = SINKS  # first tokens of the sequence that are always kept (attention sinks)
    local: float = 0.1  # share of the current tokens, the newest ones, that is always kept
    seed: int = 0  # for the `random` scorer
    park_tokens: int = 0  # dropped tokens whose hidden states are kept, so that they can be revived; one row only

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep must be above 0 and at most 1, got {self.keep}")
        if not 0.0 <= self.local <= 1.0:
            raise ValueError(f"local must be between 0 and 1, got {self.local}")
        if self.sinks < 0:
            raise ValueError(f"sinks must be 0 or more, got {self.sinks}")
        if self.park_tokens < 0:
            raise ValueError(f"park_tokens must be 0 or more, got {self.park_tokens}")
        if self.scorer == LEARNED:
            raise ValueError("the scorer learned comes from a checkpoint; give learned_scorer(folder, model)")
        if isinstance(self.scorer, str) and self.scorer not in SCORERS:
            raise ValueError(f"unknown scorer {self.scorer!r}; known: {', '.join(SCORERS)}")
        if self.stages is not None:
            object.__setattr__(self, "stages", tuple(int(layer) for layer in self.stages))
            if any(layer < 1 for layer in self.stages):
                raise ValueError(f"stages must be layers from 1 on (layer 0 has scored nothing), got {self.stages}")
            if any(b <= a for a, b in zip(self.stages, self.stages[1:], strict=False)):
                raise ValueError(f"stages must rise, got {self.stages}")

    @classmethod
    def preset(cls, name: str, **changes: object) -> PruneConfig:
        """The published presets `keep09`, `keep08`, `keep07`; `changes` replaces other fields.

        Raises:
            ValueError: unknown preset.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
        return replace(cls(keep=PRESETS[name]), **changes)  # type: ignore[arg-type]

    def resolve_stages(self, layers: int) -> tuple[int, ...]:
        """The stages for a model of `layers` layers.

        Raises:
            ValueError: a stage beyond the last layer, or no stage although `keep` is below 1.
        """
        stages = tuple(range(4, layers - 2, 3)) if self.stages is None else self.stages
        if stages and stages[-1] >= layers:
            raise ValueError(f"stage at layer {stages[-1]}, but the model has layers 0 to {layers - 1}")
        if not stages and self.keep < 1.0:
            raise ValueError(
                f"keep is {self.keep} but no layer drops tokens: a model of {layers} layers has no stage in "
                f"range(4, {layers - 2}, 3); give stages=(...) within 1 to {layers - 1}, or keep=1.0"
            )
        return stages


def stage_count(tokens: int, keep: float, protected: int) -> int:
    """Tokens that a stage leaves of `tokens`: ceil(keep * tokens), but never fewer than are protected, nor 0."""
    # 1e-9: ceil(0.7 * 30) must be 21 although the product is computed as 21.000000000000004 for some inputs.
    return min(tokens, max(math.ceil(keep * tokens - 1e-9), protected, 1))


def scheduled_counts(tokens: int, layers: int, stages: Sequence[int], keep: float, protected: int = 0) -> list[int]:
    """Tokens that run through each layer when no stage is held up by more than `protected` protected tokens.

    Returns:
        One count per layer. Used for ceilings and cost estimates; what a run really kept is in
        `PrunedCache.prompt_kept`.
    """
    counts, current, remaining = [], tokens, set(stages)
    for layer in range(layers):
        if layer in remaining:
            current = stage_count(current, keep, protected)
        counts.append(current)
    return counts
