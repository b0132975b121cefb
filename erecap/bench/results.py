"""Results of benchmarks: one row for each figure that has a target, and the file that collects them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_json
from erecap.generation import JsonRow
from erecap.targets import TARGETS, targets_of
from erecap.untrusted import read_json

ROWS = ("algorithm", "product")  # the same precision and plain decoding everywhere; each side at its best
FIELDS = ("id", "row", "target", "measured", "low", "high", "unit", "n", "holds", "command", "machine", "date", "note")
KEPT = ("date", "command", "settings", "model", "summary", "raw")  # of a part


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
        name: an id of `erecap.targets.TARGETS`.
        figure: in the unit of the target.
        about: `command`, `machine` (see `erecap.rollout.run_folder.machine`) and `date` of the measurement.
        row: `algorithm` or `product`.
        holds: instead of the comparison with the target, where more than this figure must hold.
    """
    target, machine = TARGETS[name], about["machine"]
    return {
        "id": name,
        "row": row,
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
        "note": note,
    }


def read_results(path: Path) -> JsonRow:
    """A results file; empty where there is none. Raises RunError for one that holds no results."""
    if not path.exists():
        return {}
    try:
        content: JsonRow = read_json(path)
    except ValueError as error:
        raise RunError(f"{path.name}: not JSON ({error}); move it away to start a new one") from error
    if not isinstance(content, dict) or not all("id" in row for row in content.get("rows", [])):
        raise RunError(f"{path.name}: holds no results with ids; move it away to start a new one")
    return content


def merge_rows(path: Path, rows: Sequence[JsonRow], *, file: str = "replan", **more: Any) -> JsonRow:
    """Put `rows` into the results file `path`, which is made if it is missing.

    A row replaces the one with the same `id` and `row`; all others stay, and so does what else the
    file holds, unless `more` names it.

    Args:
        file: the results file whose targets are listed, as `erecap.targets` names it.

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
        name: {"what": target.what, "target": str(target), "row": target.row}
        for name, target in targets_of(file).items()
    }
    content = {**content, **more, "targets": targets, "rows": sorted([*kept, *new.values()], key=place)}
    write_json(path, content)
    return content


def merge_part(
    path: Path, name: str, part: JsonRow, rows: Sequence[JsonRow], *, file: str = "replan", kept: Sequence[str] = KEPT
) -> None:
    """Put a measured part into the results file `path`, with its rows; all other parts stay.

    Args:
        kept: fields of the part that the file gets.

    Raises:
        RunError: as `merge_rows`.
    """
    parts = read_results(path).get("parts", {})
    merge_rows(path, rows, file=file, parts={**parts, name: {key: part[key] for key in kept}})


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
