"""The reward of a call, the same in training and in tests: agreement with the dense planner, less lateness."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RewardWeights:
    """The weights of a reward.

    Raises:
        ValueError: a weight that is negative or not finite.
    """

    agreement: float = 1.0  # of the share of the reference plan's tokens that stay the dense planner's
    whole_plan: float = 0.5  # of all of them staying so: one changed token makes another plan
    late: float = 1.0  # of the time beyond the SLO, as a share of the SLO, at most `latest`
    time: float = 0.2  # of the time within the SLO, as a share of it
    latest: float = 2.0  # lateness beyond this counts no further

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"reward: {name} must be finite and 0 or more, got {value}")


def reward(latency_ms: float, slo_ms: float, agreement: float, whole: bool, weights: RewardWeights) -> float:
    """The reward of one call.

    Args:
        latency_ms: of the whole call, with the time of switching to its action.
        slo_ms: the latency that it should not exceed.
        agreement: share of the tokens of a reference plan, teacher-forced, that are the dense planner's choice.
        whole: all of them are.

    Raises:
        ValueError: times that are not finite and above 0, or an agreement outside of 0 to 1.
    """
    if not (math.isfinite(latency_ms) and latency_ms > 0 and math.isfinite(slo_ms) and slo_ms > 0):
        raise ValueError(f"times must be finite and above 0, got {latency_ms} ms with an SLO of {slo_ms} ms")
    if not 0 <= agreement <= 1:
        raise ValueError(f"agreement must be from 0 to 1, got {agreement}")
    share = latency_ms / slo_ms
    late = min(weights.latest, max(0.0, share - 1.0))
    quality = weights.agreement * agreement + weights.whole_plan * whole
    return quality - weights.late * late - weights.time * min(1.0, share)
