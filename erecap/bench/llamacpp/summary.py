"""Summary of the comparison with llama.cpp: a table, and figure R8 in both rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erecap.bench.llamacpp.bench import OUR_FLOOR, OURS, THEIR_FLOOR, THEIRS
from erecap.bench.replan.ceilings import ratio
from erecap.bench.results import merge_part, result_row
from erecap.bench.tables import seconds, table_of
from erecap.generation import JsonRow

if TYPE_CHECKING:
    from rich.table import Table

R8_LENGTH = 7500
Raw = Sequence[JsonRow]


def llama_summary(raw: Raw) -> list[JsonRow]:
    """Per row, length and side: least, median and greatest total, as multiples of its own floor and of `erecap`."""
    summary = []
    for row, length, mode in dict.fromkeys((r["row"], r["length"], r["mode"]) for r in raw):
        own = _of(raw, row, length, mode)
        floor = OUR_FLOOR if mode.startswith(OURS) else THEIR_FLOOR
        total = statistics.median(_totals(own))
        summary.append(
            {
                "row": row,
                "length": length,
                "mode": mode,
                "n": len(own),
                "total_ms": total,
                "min_ms": min(_totals(own)),
                "max_ms": max(_totals(own)),
                "prefill_ms": statistics.median(r["prefill_ms"] for r in own),
                "decode_ms": statistics.median(r["decode_ms"] for r in own),
                "over_floor": total / statistics.median(_totals(_of(raw, row, length, floor))),
                "over_erecap": total / statistics.median(_totals(_of(raw, row, length, OURS))),
                "drafted_tokens": own[0]["drafted_tokens"],
                "accepted_tokens": own[0]["accepted_tokens"],
            }
        )
    return summary


def fastest(summary: Sequence[JsonRow], row: str, length: int) -> str:
    """The variant of llama.cpp with the least median, which `erecap` is compared with."""
    theirs = [
        entry
        for entry in summary
        if (entry["row"], entry["length"]) == (row, length)
        and entry["mode"].startswith(THEIRS)
        and entry["mode"] != THEIR_FLOOR
    ]
    return str(min(theirs, key=lambda entry: float(entry["total_ms"]))["mode"])


def llama_rows(found: JsonRow, about: JsonRow) -> list[JsonRow]:
    """R8 in every row measured, if it was measured at the length that it is defined for."""
    raw, summary, rows = found["raw"], llama_summary(found["raw"]), []
    for row in dict.fromkeys(r["row"] for r in raw if r["length"] == R8_LENGTH):
        best = fastest(summary, row, R8_LENGTH)
        figure = ratio(_totals(_of(raw, row, R8_LENGTH, best)), _totals(_of(raw, row, R8_LENGTH, OURS)))
        rows.append(result_row("R8", figure, about, row=row, note=_note(found, summary, row, best)))
    return rows


def _note(found: JsonRow, summary: Sequence[JsonRow], row: str, best: str) -> str:
    loaded = found["loaded"][row]
    at = {entry["mode"]: entry for entry in summary if (entry["row"], entry["length"]) == (row, R8_LENGTH)}
    check = next(c for c in found["checks"] if (c["row"], c["length"]) == (row, R8_LENGTH))
    parts = [
        f"llama.cpp ({loaded['model']}, {loaded['weight_bytes'] / 1e6:.0f} MB of weights, {loaded['kv']} keys and "
        f"values, llama-cpp-python {loaded['version']}), fastest as `{best.removeprefix(THEIRS)}`",
        "over `erecap`: "
        + ", ".join(
            f"{mode.removeprefix(THEIRS)} {entry['over_erecap']:.2f}"
            for mode, entry in at.items()
            if mode.startswith(THEIRS) and mode != THEIR_FLOOR
        ),
        f"over its own floor: llama.cpp {at[best]['over_floor']:.2f}, `erecap` {at[OURS]['over_floor']:.2f}",
        f"{check['agreeing']} of {check['plan_tokens']} tokens of llama.cpp are our unpruned model's first choice",
    ]
    ours, quality = at[OURS], found["quality"]
    if row == "product":
        parts.append(f"`erecap` accepted {ours['accepted_tokens']} of {ours['drafted_tokens']} drafted tokens")
        if quality is not None:
            parts.append(
                f"its {quality['weights']} decode weights agree with float32 on {100 * quality['agreement']:.1f} % of "
                f"{quality['n']} plan tokens, loss {quality['difference']:+.3f}"
            )
    if not check["same_tokenizer"]:
        parts.append("llama.cpp's own tokenizer differs on this text; it was given our ids")
    return "; ".join(parts)


def llama_tables(summary: Sequence[JsonRow]) -> list[Table]:
    """One table for each row and length, for a terminal of 80 columns."""
    return [
        table_of(
            f"erecap against llama.cpp (seconds, medians): {length:,} tokens of history, {row}",
            ("call", "total", "min–max", "prefill", "decode", "× floor", "× ours"),
            [
                (
                    entry["mode"] if entry["mode"] == THEIR_FLOOR else entry["mode"].removeprefix(THEIRS),
                    seconds(entry["total_ms"]),
                    f"{seconds(entry['min_ms'])}–{seconds(entry['max_ms'])}",
                    seconds(entry["prefill_ms"]),
                    seconds(entry["decode_ms"]),
                    f"{entry['over_floor']:.2f}",
                    f"{entry['over_erecap']:.2f}",
                )
                for entry in summary
                if (entry["row"], entry["length"]) == (row, length)
            ],
            left=("call",),
        )
        for row, length in dict.fromkeys((entry["row"], entry["length"]) for entry in summary)
    ]


def publish_llama(path: Path, part: JsonRow) -> None:
    """Merge R8 into the results file, with settings, summary and raw rows; keep all other parts."""
    merge_part(path, "llamacpp", part, part["rows"])


def _of(raw: Raw, row: str, length: int, mode: str) -> list[JsonRow]:
    own = [r for r in raw if (r["row"], r["length"], r["mode"]) == (row, length, mode)]
    return sorted(own, key=lambda r: r["repetition"])


def _totals(rows: Raw) -> list[float]:
    return [float(row["total_ms"]) for row in rows]
