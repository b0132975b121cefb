"""The part of a finished run that every results file keeps: model, machine and versions, without rows or paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A run folder's `run.json`, its `summary.json`, and the part of them that every results file keeps.

    Raises:
        ValueError: the run was interrupted.
    """
    head = json.loads((folder / "run.json").read_text("utf-8"))
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    if summary["status"] != "finished":
        raise ValueError(f"{folder}: the run is {summary['status']}; results are kept of finished runs")
    kept = {
        "date": head["created"][:10],
        "machine": head["machine"],
        "model": {key: head["model"].get(key) for key in ("name", "hash", "adapter", "pruner", "dtype")},
        "suites": list(head["suites"]),
        "versions": head["versions"],
        "label": summary["label"],
    }
    return head, summary, kept


def adapted(model: dict[str, Any]) -> str:
    """A model's name, with its adapter's if it has one."""
    adapter = model.get("adapter")
    return str(model["name"]) + (f" with {adapter['name']}" if adapter else "")
