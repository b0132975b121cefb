"""Scores of candidates, the front of those that nothing beats, and the choice. No torch in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.tuning.candidates import Stages


@dataclass(frozen=True)
class Candidate:
    """A stage set with its speed-up and its agreement."""

    stages: Stages
    speed_up: float  # predicted, of the prefill
    same: int  # plan tokens whose most probable token is that of the unpruned model
    tokens: int  # plan tokens compared
    mean_kept: float  # tokens stored over tokens read, mean over layers and samples
    origin: str = ""  # how it came to be tried

    @property
    def agreement(self) -> float:
        """Share of plan tokens on which the pruned and the unpruned model agree."""
        return self.same / self.tokens

    @property
    def score(self) -> float:
        """Speed-up times agreement."""
        return self.speed_up * self.agreement

    def as_row(self) -> dict[str, Any]:
        """For files and tables."""
        return {
            "stages": list(self.stages),
            "speed_up": self.speed_up,
            "agreement": self.agreement,
            "score": self.score,
            "same": self.same,
            "tokens": self.tokens,
            "mean_kept": self.mean_kept,
            "origin": self.origin,
        }


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best score first; of equal scores the one with fewer stages, then with earlier ones."""
    return sorted(candidates, key=lambda c: (-c.score, len(c.stages), c.stages))


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other beats in speed-up and agreement, fastest first; of equal ones the first in `ranked`."""
    front: list[Candidate] = []
    best = -1.0
    for candidate in sorted(ranked(candidates), key=lambda c: (-c.speed_up, -c.agreement)):
        if candidate.agreement > best:
            front.append(candidate)
            best = candidate.agreement
    return front


def eligible(candidates: Iterable[Candidate], least_agreement: float) -> list[Candidate]:
    """Best score first, without those that agree less than asked for."""
    return ranked(c for c in candidates if c.agreement >= least_agreement)
