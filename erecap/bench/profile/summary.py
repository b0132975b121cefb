"""Summary of a profile's rows: medians, ratios to `full` beside their ceilings and claims, stored tokens, peaks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from erecap.bench.profile.journal import Journal
from erecap.bench.profile.measure import pairs
from erecap.bench.profile.settings import CLAIMS, FLOOR, FULL, Cell, Profile
from erecap.bench.replan.ceilings import bounded, ratio
from erecap.bench.results import Figure, result_row
from erecap.cost.flops import ModelShape
from erecap.generation import JsonRow

FLAT = (4096, 32768)  # lengths whose peaks the figure P1 compares
EVICTING = "erecap"


def summarise(profile: Profile, journal: Journal, shape: Mapping[str, int]) -> JsonRow:
    """`cells` in the order of the profile, `skipped` ones with their reason, and `faults` as lines."""
    cells, skipped = [], []
    for cell in profile.cells():
        reason = journal.skipped(cell)
        if reason is not None:
            skipped.append({**cell.head(), "why": reason["skipped"], "from": reason["length"]})
        elif journal.of(cell):
            entry = _memory if profile.part == "memory" else _timed
            cells.append({**cell.head(), **entry(profile, cell, journal, shape)})
    faults = [
        f"{entry['mode']} {entry['preset']} at {entry['length']:,} tokens is {entry['speed_up']:.2f} times faster than "
        f"full, above its ceiling of {entry['flop_ceiling']:.2f} from FLOPs"
        for entry in cells
        if entry.get("fault")
    ]
    return {"cells": cells, "skipped": skipped, "faults": faults}


def _timed(profile: Profile, cell: Cell, journal: Journal, shape: Mapping[str, int]) -> JsonRow:
    own, full = journal.of(cell), journal.of(Cell(cell.length, None, FULL))
    total = [float(row["total_ms"]) for row in own]
    kept, tokens = own[0]["kept"], own[0]["tokens"]
    mean = sum(kept) / len(kept) if kept else 0.0
    entry: JsonRow = {
        "n": len(own),
        "tokens": tokens,
        "total_ms": statistics.median(total),
        "min_ms": min(total),
        "max_ms": max(total),
        "mean_kept": mean,  # tokens over layers, as SDTP counts
        "kv_share": mean / tokens,  # of what `full` stores
    }
    if profile.part == "end2end":
        entry |= {name: statistics.median(float(row[name]) for row in own) for name in ("prefill_ms", "decode_ms")}
        entry["over_floor"] = _over(own, journal.of(Cell(cell.length, None, FLOOR)))
    if cell.mode == FLOOR or not full:
        return entry
    ours, theirs = pairs(own, full, "total_ms")
    if cell.mode != FULL and ours:
        speed = ratio(theirs, ours)
        entry |= {"speed_up": speed.value, "low": speed.low, "high": speed.high}
    if cell.preset is not None:
        entry |= _ceiling(profile, cell, journal, shape, own, full)
    return entry


def _ceiling(
    profile: Profile, cell: Cell, journal: Journal, shape: Mapping[str, int], own: list[JsonRow], full: list[JsonRow]
) -> JsonRow:
    """The prefill's ceilings; in `end2end` they bound the prefill's part of the call."""
    field = "prefill_ms" if profile.part == "end2end" else "total_ms"
    ours, theirs = pairs(own, full, field)
    if not ours:
        return {}
    share = journal.note(Cell(cell.length, None, FULL), "attention_share")
    bound = bounded(
        ratio(theirs, ours), ModelShape(**shape), own[0]["kept"], full[0]["kept"], share, cell.parsed.prune or ""
    )
    found = {
        "prefill_speed_up": bound.speed_up.value,
        "flop_ceiling": bound.flops,
        "time_ceiling": bound.timed,
        # Without the share of attention the FLOPs alone are no bound of time.
        "fault": bound.fault and share is not None,
    }
    return {**found, "claim": CLAIMS[cell.preset or ""]} if profile.part == "prefill" else found


def _over(own: Sequence[JsonRow], floor: Sequence[JsonRow]) -> float | None:
    ours, theirs = pairs(own, floor, "total_ms")
    return ratio(ours, theirs).value if ours else None


def _memory(profile: Profile, cell: Cell, journal: Journal, shape: Mapping[str, int]) -> JsonRow:
    own = journal.of(cell)
    devices = list(own[0]["peak_bytes"])
    peaks = {device: statistics.median(float(row["peak_bytes"][device]) for row in own) for device in devices}
    entry: JsonRow = {"n": len(own), "tokens": own[0]["tokens"], "peak_bytes": peaks}
    full = journal.of(Cell(cell.length, None, FULL))
    if full and cell.mode != FULL:
        entry["of_full"] = sum(peaks.values()) / statistics.median(_sum(row) for row in full)
    return entry


def _sum(row: JsonRow) -> float:
    return float(sum(row["peak_bytes"].values()))


def profile_rows(profile: Profile, journal: Journal, about: JsonRow) -> list[JsonRow]:
    """The row P1, where its lengths were measured: peak memory of the evicting session, long over short."""
    if profile.part != "memory" or profile.of != "prefill":
        return []
    short, long = ([_sum(row) for row in journal.of(Cell(length, None, EVICTING))] for length in FLAT)
    if not short or not long:
        return []
    value = statistics.median(long) / statistics.median(short)
    figure = Figure(value, min(long) / max(short), max(long) / min(short), min(len(short), len(long)))
    megabytes = [statistics.median(peaks) / 2**20 for peaks in (short, long)]
    note = f"{megabytes[0]:.0f} and {megabytes[1]:.0f} MiB beside the weights, {profile.kv_tokens:,} tokens stored"
    row: dict[str, Any] = result_row("P1", figure, about, row="algorithm", note=note)
    return [row]
