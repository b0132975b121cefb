"""Navigation measures as habitat-lab defines them: distance to goal, success, SPL and soft SPL.

Source: Anderson et al. 2018 (https://arxiv.org/abs/1807.06757) and habitat-lab's `tasks/nav/nav.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """The measures of one navigation episode."""

    distance_to_goal: float  # geodesic metres to the nearest goal at the end
    success: float  # 1 if the robot stopped within the success distance
    spl: float
    soft_spl: float


def measure(*, start: float, end: float, path: float, stopped: bool, within: float) -> Measures:
    """Measure an episode.

    Args:
        start: geodesic metres from the start to the nearest goal, finite.
        end: the same at the end; infinite where there is no way.
        path: metres travelled.
        stopped: the robot said that it has arrived.
        within: success distance, metres.

    >>> measure(start=8.0, end=0.1, path=10.0, stopped=True, within=0.2)
    Measures(distance_to_goal=0.1, success=1.0, spl=0.8, soft_spl=0.79)
    """
    success = 1.0 if stopped and end < within else 0.0
    weight = path_weight(start, path)
    return Measures(end, success, success * weight, round(max(0.0, 1.0 - _share(end, start)) * weight, 12))


def path_weight(shortest: float, path: float) -> float:
    """Shortest path over the path travelled, at most 1; 1 where none was needed and none was made."""
    longest = max(shortest, path)
    return 1.0 if longest == 0 else shortest / longest


def _share(end: float, start: float) -> float:
    """Share of the distance that is left; all of it where the start was at the goal and the end is not."""
    if start == 0:
        return 0.0 if end == 0 else 1.0
    return 1.0 if end == float("inf") else end / start
