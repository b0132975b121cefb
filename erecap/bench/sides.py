"""Summary of calls that several sides made in turn: medians, beside a floor and beside `erecap`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from erecap.generation import JsonRow

OURS, FLOOR = "erecap", "floor"


def total_ms(row: JsonRow) -> float:
    """Milliseconds of a call, which are told whole or by its two phases."""
    return float(row["total_ms"] if "total_ms" in row else row["prefill_ms"] + row["decode_ms"])


def totals(raw: Sequence[JsonRow], mode: str) -> list[float]:
    """Milliseconds of the calls of one side, in the order of their repetitions."""
    return [total_ms(row) for row in raw if row["mode"] == mode]


def side_summary(
    raw: Sequence[JsonRow],
    *,
    medians: Sequence[str] = (),
    means: Sequence[str] = (),
    same: Sequence[str] = (),
    ours: str = OURS,
    floor: str = FLOOR,
) -> list[JsonRow]:
    """Per side: medians, as multiples of those of the floor and of `erecap`.

    Args:
        raw: a row a call; `mode` is its side.
        medians, means: fields of which a side's median, or mean, is told as well.
        same: fields that are the same in all repetitions.
        ours, floor: names of the sides that the others are compared with.
    """
    least, own = (statistics.median(totals(raw, mode)) for mode in (floor, ours))
    found = []
    for mode in dict.fromkeys(row["mode"] for row in raw):
        times, rows = totals(raw, mode), [row for row in raw if row["mode"] == mode]
        total = statistics.median(times)
        found.append(
            {
                "mode": mode, "n": len(times), "total_ms": total, "min_ms": min(times), "max_ms": max(times),
                **{field: statistics.median(row[field] for row in rows) for field in medians},
                **{field: statistics.mean(row[field] for row in rows) for field in means},
                "over_floor": total / least, "over_erecap": total / own,
                **{field: rows[0][field] for field in same},
            }
        )  # fmt: skip
    return found
