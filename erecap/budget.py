"""How much a session may keep."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Limits of one session. The smaller of `kv_tokens` and `kv_ratio` counts where both are given.

    Raises:
        ValueError: a limit out of range.
    """

    kv_tokens: int | None = None  # tokens stored per layer when a call returns, protected ones included
    kv_ratio: float | None = None  # the same as a share of all tokens read; for comparing with published methods

    def __post_init__(self) -> None:
        if self.kv_tokens is not None and self.kv_tokens < 16:
            raise ValueError(f"kv_tokens must be 16 or more, got {self.kv_tokens}")
        if self.kv_ratio is not None and not 0.0 < self.kv_ratio <= 1.0:
            raise ValueError(f"kv_ratio must be above 0 and at most 1, got {self.kv_ratio}")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.kv_tokens is not None or self.kv_ratio is not None

    def tokens(self, read: int) -> int | None:
        """Tokens that may be stored after `read` tokens were read; None: all."""
        limits = []
        if self.kv_tokens is not None:
            limits.append(self.kv_tokens)
        if self.kv_ratio is not None:
            limits.append(math.ceil(self.kv_ratio * read))
        return min(limits) if limits else None
