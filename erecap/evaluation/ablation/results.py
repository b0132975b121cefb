"""The results file of an ablation: what was measured now, beside what other folders gave before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.untrusted import read_json

FIGURES = {
    "time": ("calls", "total_ms", "prefill_ms", "decode_ms", "kv_bytes", "kv_over_all", "over_all"),
    "agreement": ("agreement",),
    "success": ("success",),
}  # of a variant, by the step that measures them; the last is None where that was not measured


def merged(found: JsonRow, about: Mapping[str, Any], path: Path) -> JsonRow:
    """The figures for a results file; steps that the folder does not hold keep what the file has of them.

    Args:
        found: of `ablate`.
        about: `command`, `date`, `model` and `machine`.
        path: the results file, which need not be there. One of another model, other settings or other variants is
            replaced.

    Returns:
        `about` and `found`, and by step in `measured` when and on what machine.

    Raises:
        RunError: the file cannot be read.
    """
    steps = [step for step in FIGURES if _has(found["variants"], step)]
    now = {"date": about["date"], "machine": about["machine"]}
    result: JsonRow = {**about, **found, "measured": dict.fromkeys(steps, now)}
    before = _read(path)
    same = json.loads(json.dumps({key: result[key] for key in ("model", "settings")}))
    if before is None or any(before.get(key) != value for key, value in same.items()):
        return result
    rows = {row["variant"]: row for row in before["variants"]}
    if [row["variant"] for row in result["variants"]] != list(rows):
        return result
    when = {"date": before.get("date"), "machine": before.get("machine")}
    for step in FIGURES:
        if step in steps or not _has(before["variants"], step):
            continue
        result["measured"][step] = before.get("measured", {}).get(step, when)
        taken = FIGURES[step]
        result["variants"] = [
            {**row, **{name: rows[row["variant"]][name] for name in taken}} for row in result["variants"]
        ]
    result["measured"] = {step: result["measured"][step] for step in FIGURES if step in result["measured"]}
    return result


def _has(variants: list[JsonRow], step: str) -> bool:
    name = FIGURES[step][-1]
    return any(row[name] is not None for row in variants)


def _read(path: Path) -> JsonRow | None:
    if not path.exists():
        return None
    try:
        found: JsonRow = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"--results: {path} cannot be read ({error}); delete it or name another") from error
    rows = found.get("variants") if isinstance(found, dict) else None
    names = {"variant", *(name for own in FIGURES.values() for name in own)}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and names <= row.keys() for row in rows):
        raise RunError(f"--results: {path} holds no ablation; name another file")
    return found
