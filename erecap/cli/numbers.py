"""Checks of numbers among options."""

from __future__ import annotations

import math

import typer


def finite(value: float | None) -> float | None:
    """Callback of options that take a number with a fraction: infinity and NaN pass every range.

    Raises:
        typer.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"got {value}; allowed: a finite number")
    return value
