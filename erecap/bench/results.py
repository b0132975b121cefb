"""What benchmarks leave behind: one row for each figure that has a target, and the file that collects them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_json
from erecap.protocols import JsonRow


@dataclass(frozen=True)
class Target:
    """What a figure is, and what it must reach."""

    what: str  # in the table of the README
    limit: float
    unit: str  # "x" for ratios, "points" for differences of percentages
    at_least: bool = True  # False: the figure must not exceed the limit
    row: str = "algorithm"  # the row by which it is judged; the other one stands beside it

    def holds(self, measured: float) -> bool:
        """Whether `measured` reaches it."""
        return measured >= self.limit if self.at_least else measured <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


TARGETS: dict[str, Target] = {
    "R1a": Target("replan after 4,000 tokens, `full` over `erecap`", 15, "x", row="product"),
    "R1b": Target("replan after 7,500 tokens, `full` over `erecap`", 30, "x", row="product"),
    "R2": Target("replan over its floor, the worst length", 1.3, "x", at_least=False),
    "R3": Target("replan after 7,500 tokens over replan after 1,000", 1.25, "x", at_least=False),
    "R4": Target("KV stored after 7,500 tokens, `erecap` over `reuse`", 0.15, "x", at_least=False),
    "R5": Target(
        "plan tokens as after a fresh read of what is kept, beyond the window minus before it, in points", -2, "points"
    ),
    "R6": Target("cold prefill of 4,096 tokens at keep 0.7, share of its FLOP ceiling", 0.9, "x"),
    "R7": Target("decoding a plan that repeats part of the old one, drafted over plain", 2, "x"),
    "R8": Target("replan after 7,500 tokens, llama.cpp with its prompt cache over `erecap`", 3, "x", row="product"),
    "R11": Target("replan beside a program that is busy on two threads, over the same alone", 2, "x", at_least=False),
}
ROWS = ("algorithm", "product")  # the same precision and plain decoding everywhere; each side at its best
FIELDS = ("id", "target", "measured", "low", "high", "unit", "n", "holds", "command", "machine", "date", "row", "note")


@dataclass(frozen=True)
class Figure:
    """A measured value with the least and the most that its repetitions allow."""

    value: float
    low: float
    high: float
    n: int  # repetitions, or pairs of them, behind it


def result_row(
    name: str, figure: Figure, about: JsonRow, *, row: str, note: str = "", holds: bool | None = None
) -> JsonRow:
    """One row of a results file.

    Args:
        name: an id of `TARGETS`.
        figure: in the unit of the target.
        about: `command`, `machine` (as `erecap.rollout.machine.machine` gives it) and `date` of the measurement.
        row: `algorithm` or `product`.
        holds: instead of the comparison with the target, where more than this figure must hold.
    """
    target, machine = TARGETS[name], about["machine"]
    return {
        "id": name,
        "target": str(target),
        "measured": _digits(figure.value),
        "low": _digits(figure.low),
        "high": _digits(figure.high),
        "unit": target.unit,
        "n": figure.n,
        "holds": target.holds(figure.value) if holds is None else holds,
        "command": about["command"],
        "machine": f"{machine['cpu']}, {machine['threads']} threads",
        "date": about["date"],
        "row": row,
        "note": note,
    }


def read_results(path: Path) -> JsonRow:
    """A results file; empty where there is none. Raises RunError for one that holds no results."""
    if not path.exists():
        return {}
    try:
        content: JsonRow = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path.name}: not JSON ({error}); move it away to start a new one") from error
    if not isinstance(content, dict) or not all("id" in row for row in content.get("rows", [])):
        raise RunError(f"{path.name}: holds no results with ids; move it away to start a new one")
    return content


def merge_rows(path: Path, rows: Sequence[JsonRow], **more: Any) -> JsonRow:
    """Put `rows` into the results file `path`, which is made if it is missing.

    A row takes the place of the one with the same `id` and `row`; all others stay, and so does what else the
    file holds, unless `more` names it.

    Returns:
        The whole content as it was written.

    Raises:
        RunError: `path` holds no results, or a row lacks a field or has one of an unknown kind.
    """
    for row in rows:
        missing = [field for field in FIELDS if field not in row]
        if missing or row["row"] not in ROWS:
            raise RunError(
                f"result {row.get('id', '?')}: missing {', '.join(missing) or 'nothing'}; row must be one of "
                f"{', '.join(ROWS)}"
            )
    content = read_results(path)
    new = {(row["id"], row["row"]): dict(row) for row in rows}
    kept = [row for row in content.get("rows", []) if (row["id"], row.get("row")) not in new]
    order = list(TARGETS)

    def place(row: JsonRow) -> tuple[int, str, str]:
        return order.index(row["id"]) if row["id"] in order else len(order), row["id"], str(row.get("row"))

    targets = {
        name: {"what": target.what, "target": str(target), "row": target.row} for name, target in TARGETS.items()
    }
    content = {**content, **more, "targets": targets, "rows": sorted([*kept, *new.values()], key=place)}
    write_json(path, content)
    return content


def rounded(value: Any) -> Any:
    """`value` with floats cut to three decimals, through lists and dictionaries."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value


def _digits(value: float) -> float:
    """Four significant digits: more than any of these measurements has."""
    if not math.isfinite(value):
        raise FloatingPointError(f"a measured figure is {value}")
    return float(f"{value:.4g}")
