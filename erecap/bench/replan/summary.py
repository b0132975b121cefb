"""Summary of the raw rows of the replan benchmark: medians, ceilings, and the figures R1 to R4."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from erecap.bench.replan.ceilings import FAULT_REPETITIONS, Bounded, bounded, ratio, ratio_apart
from erecap.bench.replan.settings import FLOOR, STOCK
from erecap.bench.results import Figure, result_row
from erecap.cost.flops import ModelShape
from erecap.generation import JsonRow

LATENCY_ROWS = {4000: "R1a", 7500: "R1b"}  # length of history, and the id of the figure measured there
FLOOR_LENGTHS = (1000, 2000, 4000, 7500)
FLAT = (1000, 7500)
Raw = Sequence[JsonRow]


def summarise(raw: Raw, peaks: Raw = ()) -> list[JsonRow]:
    """Per row, length and mode: median, min and max of the total, its multiple of the row's floor, and peak memory."""
    most = {(peak["length"], peak["mode"]): peak["bytes"] for peak in peaks}
    summary = []
    for row, length, mode in dict.fromkeys((r["row"], r["length"], r["mode"]) for r in raw):
        own = _of(raw, row, length, mode)
        total = _column(own, "total_ms")
        floor = floor_ms(raw, row, length, own)
        summary.append(
            {
                "row": row,
                "length": length,
                "mode": mode,
                "n": len(own),
                "total_ms": statistics.median(total),
                "min_ms": min(total),
                "max_ms": max(total),
                "prefill_ms": _median(own, "prefill_ms"),
                "decode_ms": _median(own, "decode_ms"),
                "over_floor": statistics.median(total) / statistics.median(floor) if floor else None,
                "prompt_tokens": own[0]["prompt_tokens"],
                "new_tokens": own[0]["new_tokens"],
                "kv_bytes": own[0]["kv_bytes"],
                "peak_bytes": most.get((length, mode)) if row == "algorithm" else None,
                "drafted_tokens": own[0].get("drafted_tokens", 0),
                "accepted_tokens": own[0].get("accepted_tokens", 0),
            }
        )
    order = list(dict.fromkeys(r["row"] for r in raw))
    return sorted(summary, key=lambda entry: (order.index(entry["row"]), entry["length"]))


def floor_ms(raw: Raw, row: str, length: int, own: Raw) -> list[float]:
    """The floor's milliseconds, repetition by repetition; empty where none was measured.

    With drafts the floor's own text decides how many passes it takes, so its decode time is scaled to
    the passes of the calls that it is compared with.
    """
    floor = _of(raw, row, length, FLOOR)
    if row != "product":
        return _column(floor, "total_ms")
    times = []
    for alone, call in zip(floor, own, strict=False):
        rest = alone["total_ms"] - alone["decode_ms"]
        times.append(rest + alone["decode_ms"] * call["passes"] / max(1, alone["passes"]))
    return times


def ceilings(raw: Raw, shape: Mapping[str, int], shares: Mapping[str, float | None]) -> list[JsonRow]:
    """Prefill speed-up of every `prune[...]` over `full` by length, beside its ceilings; `fault` if above."""
    found = []
    for length in dict.fromkeys(r["length"] for r in raw):
        full = _of(raw, "algorithm", length, "full")
        for mode in dict.fromkeys(r["mode"] for r in raw if r["mode"].startswith("prune")):
            own = _of(raw, "algorithm", length, mode)
            # Rows of older versions did not tell what each layer read.
            if not own or not full or not own[0].get("kept_per_layer"):
                continue
            figure: Bounded = bounded(
                ratio(_column(full, "prefill_ms"), _column(own, "prefill_ms")),
                ModelShape(**shape),
                own[0]["kept_per_layer"],
                full[0]["kept_per_layer"],
                shares.get(str(length)),
                mode.removeprefix("prune[").removesuffix("]"),
            )
            found.append({"length": length, "mode": mode, **figure.as_row()})
    return found


def below_floor(raw: Raw) -> list[str]:
    """One line for each mode and length of the algorithm row that is faster than its floor in every repetition.

    That cannot be, so something was measured wrongly. In the product row the floor is scaled, and is no bound.
    """
    lines = []
    for length, mode in dict.fromkeys((r["length"], r["mode"]) for r in raw if r["row"] == "algorithm"):
        own, floor = _of(raw, "algorithm", length, mode), _of(raw, "algorithm", length, FLOOR)
        if mode == FLOOR or not floor:
            continue
        figure = ratio(_column(own, "total_ms"), _column(floor, "total_ms"))
        if figure.n >= FAULT_REPETITIONS and figure.high < 1:
            lines.append(f"{mode} after {length:,} tokens takes {figure.value:.2f} times its floor, which cannot be")
    return lines


def replan_rows(raw: Raw, about: JsonRow, quality: JsonRow | None = None) -> list[JsonRow]:
    """The rows R1a, R1b, R2, R3 and R4, as far as the lengths and modes that they need were measured."""
    rows = []
    for row in ("algorithm", "product"):
        lengths = sorted({r["length"] for r in raw if r["row"] == row})
        for length, name in LATENCY_ROWS.items():
            full, ours = _of(raw, row, length, "full"), _of(raw, row, length, "erecap")
            if full and ours:
                figure = ratio(_column(full, "total_ms"), _column(ours, "total_ms"))
                rows.append(result_row(name, figure, about, row=row, note=_note(raw, row, length, quality)))
        floors = {length: _over_floor(raw, row, length) for length in FLOOR_LENGTHS if length in lengths}
        known = {length: figure for length, figure in floors.items() if figure is not None}
        if len(known) == len(FLOOR_LENGTHS):
            worst = max(known, key=lambda length: known[length].value)
            note = f"at {worst:,} tokens"
            if row == "product":
                note += "; the floor's decode time is scaled to the passes of `erecap`"
            rows.append(result_row("R2", known[worst], about, row=row, note=note))
        if row == "algorithm":
            rows += _flatness(raw, about)
    return rows


def _flatness(raw: Raw, about: JsonRow) -> list[JsonRow]:
    rows = []
    short, long = ({m: _of(raw, "algorithm", length, m) for m in ("erecap", "reuse")} for length in FLAT)
    if short["erecap"] and long["erecap"]:
        figure = ratio_apart(_column(long["erecap"], "total_ms"), _column(short["erecap"], "total_ms"))
        note = ""
        if short["reuse"] and long["reuse"]:
            other = ratio_apart(_column(long["reuse"], "total_ms"), _column(short["reuse"], "total_ms"))
            note = f"`reuse`: {other.value:.2f}"
        rows.append(result_row("R3", figure, about, row="algorithm", note=note))
    if long["erecap"] and long["reuse"]:
        figure = ratio(_column(long["erecap"], "kv_bytes"), _column(long["reuse"], "kv_bytes"))
        rows.append(result_row("R4", figure, about, row="algorithm"))
    return rows


def _over_floor(raw: Raw, row: str, length: int) -> Figure | None:
    ours = _of(raw, row, length, "erecap")
    floor = floor_ms(raw, row, length, ours)
    return ratio(_column(ours, "total_ms"), floor) if ours and floor else None


def _note(raw: Raw, row: str, length: int, quality: JsonRow | None) -> str:
    parts = []
    ours, floor = _of(raw, row, length, "erecap"), _of(raw, row, length, FLOOR)
    full = _of(raw, row, length, "full")
    if row == "product":
        for name, own in (("full", full), ("erecap", ours)):
            parts.append(f"`{name}` accepted {own[0]['accepted_tokens']} of {own[0]['drafted_tokens']} drafted tokens")
        if quality is not None:
            parts.append(
                f"{quality['weights']} decode weights agree with float32 on {100 * quality['agreement']:.1f} % of "
                f"{quality['n']} plan tokens, loss {quality['difference']:+.3f}"
            )
    if floor:
        # Nothing that reads the new tokens and decodes the plan can be faster than the floor.
        most = statistics.median(_column(full, "total_ms")) / statistics.median(floor_ms(raw, row, length, ours))
        parts.append(f"at the floor it would be {most:.1f}")
    stock = _of(raw, STOCK, length, STOCK)
    if stock and row == "product":
        other = ratio(_column(stock, "total_ms"), _column(ours, "total_ms"))
        parts.append(f"stock `generate` over `erecap`: {other.value:.1f}")
    return "; ".join(parts)


def _of(raw: Raw, row: str, length: int, mode: str) -> list[JsonRow]:
    own = [r for r in raw if (r["row"], r["length"], r["mode"]) == (row, length, mode)]
    return sorted(own, key=lambda r: r["repetition"])


def _column(rows: Raw, name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _median(rows: Raw, name: str) -> Any:
    return None if rows[0][name] is None else statistics.median(_column(rows, name))
