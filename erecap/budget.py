"""Budgets of sessions: how much a session may keep, and when it has to evict. Pure arithmetic, without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final

from erecap.errors import BudgetError

AUTO: Final = "auto"  # how `kv_tokens` is written where nothing is dropped while it fits
LEFT = 0.75  # share of what fits that an eviction of the automatic budget leaves, so that the next calls need none
LEFT_TO_SAVE = 0.5  # share of the stored tokens that is left where evicting saves time (`pays`)


@dataclass(frozen=True)
class Limit:
    """The limit of one call, in tokens, as a budget sets it."""

    most: int  # that may be stored
    down_to: int  # what an eviction leaves, once there would be more
    reason: str  # what sets the limit, in words


@dataclass(frozen=True)
class Budget:
    """Limits of one session: a fixed number of tokens, or as much as fits (`Budget.auto`).

    The smaller of `kv_tokens` and `kv_ratio` counts where both are given. `Budget()` keeps everything.

    Raises:
        ValueError: a limit that is no number or out of range, or limits that exclude each other.
    """

    kv_tokens: int | None = None  # tokens stored per layer when a call returns, protected ones included
    kv_ratio: float | None = None  # the same as a share of all tokens read; for comparing with published methods
    automatic: bool = False  # see `auto`
    memory_bytes: int | None = None  # of keys and values of this session; only if automatic
    pays: float | None = None  # share of a call's time that dropping has to save; only if automatic

    def __post_init__(self) -> None:
        check_whole("kv_tokens", self.kv_tokens, least=16)
        check_whole("memory_bytes", self.memory_bytes, least=1)
        check_number("kv_ratio", self.kv_ratio)
        check_number("pays", self.pays)
        if self.kv_ratio is not None and not 0.0 < self.kv_ratio <= 1.0:
            raise ValueError(f"kv_ratio must be above 0 and at most 1, got {self.kv_ratio}")
        fixed = self.kv_tokens is not None or self.kv_ratio is not None
        if self.automatic and fixed:
            raise ValueError("an automatic budget takes neither kv_tokens nor kv_ratio")
        if not self.automatic and (self.memory_bytes is not None or self.pays is not None):
            raise ValueError("memory_bytes and pays are for an automatic budget: Budget.auto(...)")
        if self.pays is not None and not 0.0 < self.pays < 1 - LEFT_TO_SAVE:
            raise ValueError(f"pays must be above 0 and below {1 - LEFT_TO_SAVE:g}, got {self.pays}")

    @classmethod
    def auto(cls, memory_bytes: int | None = None, pays: float | None = None) -> Budget:
        """Drop nothing while the history fits the model's window, less the room for the answer, and the memory given.

        Once it no longer fits, a session evicts down to three quarters of the tokens that fit, by its own ranking.

        Args:
            memory_bytes: of keys and values that the session may store; None: only the window counts.
            pays: evict half of the stored tokens as soon as that is predicted to save this share of a call's time, the
                time of dropping included; above 0 and below 0.5. Needs a calibrated cost model.
        """
        return cls(automatic=True, memory_bytes=memory_bytes, pays=pays)

    @classmethod
    def of(cls, value: Any) -> Budget:
        """The budget that a caller means: a `Budget`, a number of tokens (`kv_tokens`), "auto", or None for no limit.

        Raises:
            ValueError: anything else, or a number of tokens out of range.
        """
        if isinstance(value, Budget):
            return value
        if value is None:
            return cls()
        if isinstance(value, str) and value == AUTO:
            return cls.auto()
        if isinstance(value, Integral) and not isinstance(value, bool):
            return cls(kv_tokens=int(value))
        raise ValueError(f"got {value!r}; allowed: a number of tokens, {AUTO!r}, or a Budget")

    @property
    def limited(self) -> bool:
        """True if there is any limit, so that a session evicts instead of leaving messages out."""
        return self.automatic or self.kv_tokens is not None or self.kv_ratio is not None

    def tokens(self, read: int) -> int | None:
        """The fixed limit after `read` tokens were read; None: there is none."""
        limits = []
        if self.kv_tokens is not None:
            limits.append(self.kv_tokens)
        if self.kv_ratio is not None:
            limits.append(math.ceil(self.kv_ratio * read))
        return min(limits) if limits else None

    def limit(
        self,
        *,
        read: int,
        window: int | None,
        room: int = 0,
        bytes_per_token: int = 1,
        stored: int = 0,
        stored_bytes: int = 0,
    ) -> Limit | None:
        """The most tokens that may be stored before an answer begins; None: all.

        Args:
            read: tokens read so far.
            window: positions that the model can take; None: they set no bound.
            room: tokens of the answer, which must find room as well.
            bytes_per_token: keys and values of a token that all layers store.
            stored, stored_bytes: tokens that some layer stores, and bytes of all of them: where layers store
                different tokens, more of them fit.

        Raises:
            BudgetError: not even one token fits beside the answer.
        """
        fixed = self.tokens(read)
        if fixed is not None:
            of = f"kv_tokens={fixed:,}" if fixed == self.kv_tokens else f"kv_ratio={self.kv_ratio:g}, {fixed:,} tokens"
            return Limit(fixed, fixed, f"the budget ({of})")
        found: list[tuple[int, str]] = []
        if self.automatic and window is not None:
            found.append((window, f"the window of {window:,}"))
        if self.memory_bytes is not None:
            holds = stored + (self.memory_bytes - stored_bytes) // bytes_per_token
            found.append((holds, f"the memory of {self.memory_bytes:,} bytes, which holds {holds:,}"))
        if not found:
            return None
        holds, what = min(found)
        most = holds - room
        if most < 1:
            raise BudgetError(f"{what} has no room beside an answer of {room:,} tokens")
        return Limit(most, max(1, int(LEFT * most)), what + (f", less {room:,} for the answer" if room else ""))


def budget_order(budget: int | str | None) -> tuple[int, int]:
    """Sort key of the budgets in rows: modes without one first, then by tokens, the automatic one last."""
    return (1, 0) if isinstance(budget, str) else (0, budget or 0)


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Refuse what is neither None nor a whole number from `least` on.

    Raises:
        ValueError: another type (a bool, a float, a text), or a smaller number.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if least is not None and int(value) < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")


def check_number(name: str, value: Any) -> None:
    """Refuse what is neither None nor a real number; NaN is left to the check of its range.

    Raises:
        ValueError: another type (a bool, a text).
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ValueError(f"{name} must be a number, got {value!r}")
