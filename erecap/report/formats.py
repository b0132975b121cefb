"""Number formats of tables and pages. None, a figure that does not exist, is a dash everywhere."""

from __future__ import annotations

from typing import Any

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """A share (0..1) in percent, without decimals where it is whole."""
    if share is None:
        return DASH
    return f"{100 * share:.{digits}f}".removesuffix(".0") + " %"


def interval_percent(interval: dict[str, float] | None) -> str:
    """The ends of an interval of shares, in percent."""
    return DASH if interval is None else f"{100 * interval['low']:.0f}–{100 * interval['high']:.0f} %"


def points(share: float | None, *, unit: bool = True) -> str:
    """A difference of shares in percentage points, always signed."""
    if share is None:
        return DASH
    value = round(100 * share, 1) + 0.0  # turns -0.0 into 0.0
    text = f"{value:+.1f}".replace("-", "−") if value else "0"
    return text + (" points" if unit else "")


def interval_points(interval: dict[str, float] | None) -> str:
    """The ends of an interval of differences, in percentage points."""
    if interval is None:
        return DASH
    return f"{points(interval['low'], unit=False)} to {points(interval['high'], unit=False)}"


def decimal(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def times(ratio: float | None) -> str:
    """A speed-up."""
    return DASH if ratio is None else f"{ratio:.2f}×"


def count(value: float | None) -> str:
    """A number of things, with thousands separated."""
    return DASH if value is None else f"{value:,.0f}"


def kv_tokens(budget: int | str | None) -> str:
    """A budget: tokens, or `auto`."""
    return budget if isinstance(budget, str) else count(budget)


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, in seconds from one second on."""
    if value is None:
        return DASH
    if value >= 1000:
        return f"{value / 1000:.2f} s" if value < 10_000 else f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if 0 < value < 10 else f"{value:.0f} ms"


def seconds(value: float | None) -> str:
    """A time in seconds, to two digits."""
    if value is None:
        return DASH
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def mebibytes(value: float | None) -> str:
    """A number of bytes in MiB."""
    return DASH if value is None else f"{value / 2**20:.1f} MiB"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listing(names: list[str]) -> str:
    """Names joined as in a sentence."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def at(figures: dict[str, Any] | None, key: str) -> float | None:
    """`figures[key]`, or None where there are no figures."""
    return None if figures is None else figures[key]


def bin_name(low: int, high: int | None) -> str:
    """A range of lengths."""
    return f"{low:,}–{high:,}" if high is not None else f"{low:,} and more"
