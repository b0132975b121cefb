"""Numbers among the options of `erecap.wrap`, told from texts and truth values that stand in their place."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """A number of any kind, numpy's included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """An integer of any kind, numpy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool)
