"""A calibration for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from erecap.cost.model import DECODE_TERMS, EVICT_TERMS, PREFILL_TERMS, SPLICE_TERMS, CostModel

if TYPE_CHECKING:
    from rich.table import Table

    from erecap.calibration.calibrate import Calibration

BUSY = 0.25  # repeated steps that differ by more were disturbed


def in_words(cost: CostModel) -> Iterator[str]:
    """One line a coefficient that is not 0, the smaller ones in microseconds or nanoseconds."""
    long = f"prefill, over {cost.short} tokens" if cost.prefill_short is not None else "prefill"
    named = (
        (long, cost.prefill, PREFILL_TERMS),
        (f"prefill, to {cost.short} tokens", cost.prefill_short or (), PREFILL_TERMS),
        ("decode", cost.decode, DECODE_TERMS),
        ("evict", cost.evict, EVICT_TERMS),
        ("splice", cost.splice, SPLICE_TERMS),
    )
    for kind, values, terms in named:
        for value, term in zip(values, terms, strict=False):
            if value:
                yield f"{kind:<25}{_time(value):>9} {term}"


def error_table(calibration: Calibration) -> Table:
    """Errors on sizes that were not fitted to."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="Predicted against measured, on sizes that were not fitted to",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("step")
    for name in ("sizes", "median error", "worst"):
        table.add_column(name, justify="right")
    for kind, error in calibration.errors.items():
        table.add_row(kind, str(error.points), f"{error.median:.1%}", f"{error.worst:.1%}")
    return table


def disturbance(calibration: Calibration) -> str | None:
    """A warning where the machine was busy, so that the figures are doubtful; else None."""
    if calibration.noise <= BUSY:
        return None
    return (
        f"the same step took times that differ by {calibration.noise:.0%} (median): "
        "other programs were running; calibrate again when the machine is quiet"
    )


def _time(milliseconds: float) -> str:
    for unit, factor in (("ms", 1.0), ("us", 1e3)):
        if milliseconds * factor >= 1:
            return f"{milliseconds * factor:.3g} {unit}"
    return f"{milliseconds * 1e6:.3g} ns"
