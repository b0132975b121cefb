"""Settings of `erecap train controller`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from erecap.errors import ConfigError
from erecap.scheduling.controllers import METHODS, LearnerSettings
from erecap.scheduling.reward import RewardWeights
from erecap.training.controller.loads import LOADS


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of measuring a table. A table goes on only with the same."""

    data: tuple[Path, ...]
    actions: Path | None = None  # YAML file; None: the default actions
    loads: tuple[str, ...] = ("idle", "busy")
    limit: int | None = None  # prompts at most
    each: int | None = None  # calls of one conversation
    max_tokens: int | None = None  # of a prompt; longer ones are left out
    held_out: float = 0.2  # share of the conversations
    seed: int = 0
    repeats: int = 1  # timed calls of a cell; the median counts
    busy_threads: int = 2
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        checks = {
            "data": bool(self.data),
            "loads": bool(self.loads) and len(set(self.loads)) == len(self.loads) and set(self.loads) <= set(LOADS),
            "limit": self.limit is None or self.limit >= 2,
            "each": self.each is None or self.each >= 1,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 16,
            "held_out": 0 < self.held_out < 1,
            "repeats": 1 <= self.repeats <= 100,
            "busy_threads": 1 <= self.busy_threads <= 1024,
            "memory_mb": 32 <= self.memory_mb <= 1_000_000,
        }
        _refuse(self, checks, f"; loads are {', '.join(LOADS)}")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of training a policy on a table, and of its test."""

    method: str = "bandit"
    steps: int = 8000  # decisions in training
    stay: float = 0.7  # probability that a load lasts until the next call
    slo_ms: tuple[float, ...] = ()  # latencies to train for; none: `slo_factor` times the quiet median
    slo_factor: float = 1.25  # of the median call without a lever on the quiet machine
    passes: int = 20  # seeded schedules of loads in which every held-out conversation is tested
    reward: RewardWeights = field(default_factory=RewardWeights)
    learner: LearnerSettings = field(default_factory=LearnerSettings)

    def __post_init__(self) -> None:
        checks = {
            "method": self.method in METHODS,
            "steps": 1 <= self.steps <= 10_000_000,
            "stay": 0 <= self.stay <= 1,
            "slo_ms": all(0 < slo < math.inf for slo in self.slo_ms),
            "slo_factor": 0 < self.slo_factor < math.inf,
            "passes": 1 <= self.passes <= 10_000,
        }
        _refuse(self, checks, f"; methods are {', '.join(METHODS)}")


def _refuse(settings: object, checks: dict[str, bool], more: str) -> None:
    wrong = next((name for name, fine in checks.items() if not fine), None)
    if wrong is not None:
        raise ConfigError(f"{wrong.replace('_', '-')}: got {getattr(settings, wrong)!r}, which is out of range{more}")
