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
        known = bool(self.loads) and len(set(self.loads)) == len(self.loads) and set(self.loads) <= set(LOADS)
        checks = {
            "data": (bool(self.data), "one file or folder, or more"),
            "loads": (known, f"{', '.join(LOADS)}, each once"),
            "limit": (self.limit is None or self.limit >= 2, "2 or more"),
            "each": (self.each is None or self.each >= 1, "1 or more"),
            "max_tokens": (self.max_tokens is None or self.max_tokens >= 16, "16 or more"),
            "held_out": (0 < self.held_out < 1, "above 0 and below 1"),
            "repeats": (1 <= self.repeats <= 100, "1 to 100"),
            "busy_threads": (1 <= self.busy_threads <= 1024, "1 to 1,024"),
            "memory_mb": (32 <= self.memory_mb <= 1_000_000, "32 to 1,000,000"),
        }
        _refuse(self, checks)


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
            "method": (self.method in METHODS, ", ".join(METHODS)),
            "steps": (1 <= self.steps <= 10_000_000, "1 to 10,000,000"),
            "stay": (0 <= self.stay <= 1, "0 to 1"),
            "slo_ms": (all(0 < slo < math.inf for slo in self.slo_ms), "milliseconds above 0"),
            "slo_factor": (0 < self.slo_factor < math.inf, "above 0"),
            "passes": (1 <= self.passes <= 10_000, "1 to 10,000"),
        }
        _refuse(self, checks)


def _refuse(settings: object, checks: dict[str, tuple[bool, str]]) -> None:
    """Raise ConfigError for the first setting whose check failed.

    Args:
        checks: by setting whether its value is fine, and what is allowed, in words.
    """
    for name, (fine, allowed) in checks.items():
        if not fine:
            raise ConfigError(f"{name.replace('_', '-')}: got {getattr(settings, name)!r}; allowed: {allowed}")
