"""The state that a controller sees before a call, as numbers with names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from erecap.scheduling.hardware import Hardware

HARDWARE = ("cpu_others", "memory_free", "battery", "gpu_use", "gpu_memory_free")
PROMPT = ("prompt_tokens", "new_tokens", "plan_loss")
SESSION = ("stored_tokens", "evicted_tokens", "slo_ms")
OPTIONAL = ("plan_loss", *HARDWARE)
WIDEST = 4.0  # standard deviations from the mean of training beyond which nothing was learned


@dataclass(frozen=True)
class ControllerState:
    """The state before a planning call. None: absent, which is a feature of its own."""

    prompt_tokens: int  # of the whole chat
    new_tokens: int  # of these, not read yet
    stored_tokens: int  # in the session
    evicted_tokens: int  # read and no longer stored
    slo_ms: float  # the latency that the call should not exceed
    plan_loss: float | None = None  # mean negative log-likelihood of the last plan's tokens, in nats
    hardware: Hardware = field(default_factory=Hardware)
    previous: str | None = None  # the action in force; None: nothing has been read yet


def feature_names(actions: Sequence[str], hardware: bool = True) -> tuple[str, ...]:
    """Names of the numbers of `features`, in order.

    Args:
        actions: of the controller.
        hardware: False: without the machine's state, for comparison.
    """
    names: list[str] = []
    for name in (*PROMPT, *SESSION, *(HARDWARE if hardware else ())):
        names.append(name)
        if name in OPTIONAL:
            names.append(f"{name} absent")
    return (*names, *(f"previous {action}" for action in actions))


def features(state: ControllerState, actions: Sequence[str], hardware: bool = True) -> np.ndarray:
    """The state as `(features,)` float64: counts and times by their logarithm, what is absent as 0 with a mark.

    Raises:
        ValueError: a number that is not finite, or a negative count.
    """
    found: list[float] = []
    counts = ("prompt_tokens", "new_tokens", "stored_tokens", "evicted_tokens", "slo_ms")
    for name in (*PROMPT, *SESSION, *(HARDWARE if hardware else ())):
        value = getattr(state.hardware if name in HARDWARE else state, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and 0 or more, got {value}")
        number = 0.0 if value is None else float(value)
        found.append(math.log1p(number) if name in counts else number)
        if name in OPTIONAL:
            found.append(float(value is None))
    return np.array([*found, *(float(action == state.previous) for action in actions)])


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation of each feature in training."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]  # 0 where a feature never varied

    @classmethod
    def of(cls, rows: np.ndarray) -> Normaliser:
        """The normaliser of features `(rows, features)`."""
        deviation = rows.std(axis=0)
        return cls(tuple(rows.mean(axis=0).tolist()), tuple(np.where(deviation > 1e-9, deviation, 0.0).tolist()))

    def __call__(self, row: np.ndarray) -> np.ndarray:
        """A row `(features,)` in standard deviations from the mean, within bounds, float32."""
        return np.clip(self._scaled(row), -WIDEST, WIDEST).astype(np.float32)

    def outside(self, row: np.ndarray) -> int | None:
        """Number of the first feature that is far from all that was seen in training; None: all are within."""
        far = (np.abs(self._scaled(row)) > WIDEST) | ((np.asarray(self.deviation) == 0) & (row != self._middle(row)))
        return int(far.argmax()) if far.any() else None

    def _middle(self, row: np.ndarray) -> np.ndarray:
        """The mean, and the row itself where it differs from it by rounding only."""
        mean = np.asarray(self.mean)
        return np.where(np.isclose(row, mean, rtol=1e-6, atol=1e-9), row, mean)

    def _scaled(self, row: np.ndarray) -> np.ndarray:
        deviation = np.asarray(self.deviation)
        return (row - np.asarray(self.mean)) / np.where(deviation > 0, deviation, 1.0)
