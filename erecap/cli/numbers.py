"""Checks of numbers among options."""

from __future__ import annotations

import math
from typing import Literal

import typer

from erecap.budget import AUTO
from erecap.errors import ConfigError


def finite(value: float | None) -> float | None:
    """Callback of options that take a number with a fraction: infinity and NaN pass every range.

    Raises:
        typer.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"got {value}; allowed: a finite number")
    return value


def kv_tokens(text: str, least: int = 0) -> int | Literal["auto"] | None:
    """Tokens of a budget by the words of `--kv-tokens`: auto, all (None), or a number from `least` on.

    Raises:
        ConfigError: anything else.
    """
    if text in (AUTO, "all"):
        return AUTO if text == AUTO else None
    # Python reads no numbers of thousands of digits, and no machine stores as many tokens as 18 digits can say.
    tokens = int(text) if text.isdecimal() and len(text) <= 18 else -1
    if tokens < least:
        raise ConfigError(f"--kv-tokens: got {text!r:.60}; allowed: auto, all, or a whole number, at least 16")
    return tokens
