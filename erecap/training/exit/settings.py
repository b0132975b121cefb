"""Settings of `erecap train exit`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from erecap.errors import ConfigError


@dataclass(frozen=True)
class ExitTraining:
    """Data and settings of a training.

    Raises:
        ConfigError: a value out of range; names it and what is allowed.
    """

    tokens: int = 4000  # decoded tokens that are looked at, at most
    texts: int = 200  # of each source, at most
    max_tokens: int = 4096  # of one text
    new_tokens: int = 64  # of an answer that the model writes itself, to a prompt without one
    games: int = 12  # household games that the model plays where no source is named
    first: int | None = None  # layers before the first look; None: a quarter of them
    small: int = 512  # tokens of the small vocabulary
    held_out: float = 0.25  # share of the texts that are tested on
    epochs: int = 20
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("tokens", 16, 1 << 24),
            ("texts", 1, 1 << 20),
            ("max_tokens", 16, 1 << 20),
            ("new_tokens", 1, 1 << 16),
            ("games", 1, 1 << 16),
            ("first", 1, 1 << 12),
            ("small", 4, 1 << 16),
            ("held_out", 0.05, 0.9),
            ("epochs", 1, 10_000),
            ("lr", 1e-6, 1.0),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; allowed: {low:.10g} to {high:.10g}")
