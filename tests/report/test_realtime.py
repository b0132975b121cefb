"""Runs against a clock in the summary, on the page, and in the results that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.report import Report
from erecap.report.load import load_run_folder
from erecap.report.page.headline import headline
from erecap.report.page.summary import summarise
from tests.report.synthetic import episode_row, replan_row, write_run
from tools.readme.realtime_table import realtime_results, realtime_table

CLOCK = {"kind": "charged", "charge": "cost-model", "scale": 4.0, "slo_ms": 2000.0}


def call(mode: str, episode: int, replan: int, waited: float, **changes: Any) -> dict[str, Any]:
    clock = {
        "at_s": 10.0 * replan, "waited_ms": waited, "read_ahead_tokens": 30, "read_ahead_ms": 90.0,
        "slo_met": waited <= 2000,
    }  # fmt: skip
    return replan_row("s", mode, episode, replan, clock=clock | changes)


def clocked(tmp_path: Path, plans: str = "expert") -> Path:
    """Three episodes of each mode: `full` loses two of them to the deadline, `reuse` none."""
    episodes, replans = [], []
    for mode, waited, lost in (("full", 6000.0, 2), ("reuse", 500.0, 0)):
        for number in range(3):
            won = number >= lost
            clock = {"seconds": 200.0 + number, "thinking_s": 3 * waited / 1e3, "deferred": 1, "reused_plans": 2,
                     "slo_violations": 3 if waited > 2000 else 0}  # fmt: skip
            ending = {"success": won, "end": "success" if won else "deadline", "progress": float(won)}
            episodes.append(episode_row("s", mode, number, clock=clock, **ending))
            replans += [call(mode, number, replan, waited) for replan in range(3)]
    config = {"name": "realtime", "modes": ["full", "reuse"], "clock": CLOCK, "planner": {"plans": plans}}
    return write_run(tmp_path / "run", episodes, replans, config=config)


def test_figures_of_the_clock(tmp_path: Path) -> None:
    summary = summarise(load_run_folder(clocked(tmp_path)))
    full, reuse = (summary["modes"][mode]["clock"] for mode in ("full", "reuse"))
    assert (full["late"], full["slo_violations"], full["judged_calls"]) == (2, 9, 9)
    assert (full["waited_ms"]["p50"], full["thinking_s"], full["seconds"]) == (6000, 18.0, 201.0)
    assert (reuse["late"], reuse["slo_violations"], reuse["deferred"], reuse["reused_plans"]) == (0, 0, 3, 6)
    assert reuse["read_ahead_tokens"] == 30 and summary["modes"]["full"]["successes"] == 1


@pytest.mark.parametrize("plans", ["expert", "model"])
def test_the_page_shows_the_clock_and_whose_plans_were_played(tmp_path: Path, plans: str) -> None:
    folder = clocked(tmp_path, plans)
    report = Report.of(folder)
    page = report.write().read_text(encoding="utf-8")
    assert "Against the clock" in page and "Success against the planner&#39;s speed" in page.replace("'", "&#39;")
    assert page.count("<td>9</td>") >= 1 and "6.00 s" in page
    words = "\n".join(sentence.text for sentence in headline(load_run_folder(folder), report.summary))
    assert ("Plans are the expert's in every mode" in words) == (plans == "expert")


def test_runs_without_a_clock_show_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [episode_row("s", "full", 0)], config={"modes": ["full"]})
    report = Report.of(folder)
    assert report.summary["modes"]["full"]["clock"] is None
    assert "Against the clock" not in report.write().read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "plans, sentence", [("expert", "**Plans are the expert's in every mode**"), ("model", "Plans are the model's own.")]
)
def test_results_are_kept_and_stand_in_the_table(tmp_path: Path, plans: str, sentence: str) -> None:
    folder = clocked(tmp_path, plans)
    Report.of(folder).write()
    results = realtime_results([folder])
    assert json.loads(json.dumps(results)) == results
    lines = realtime_table(results).splitlines()
    assert sentence in lines[0] and "Price of a call: `charged`, the cost model's milliseconds" in lines[0]
    full = next(line for line in lines if "| `full` |" in line)
    assert full.startswith("| charged | 4 | `full` | 3 | 33 % |")
    assert full.endswith("| 2 | 6.00 s | 6.00 s | 18 s | 9 of 9 |")
    assert realtime_results([folder], results) == results
    slower = {**results["runs"][0], "scale": 16.0, "charge": "measured"}
    both = realtime_results([folder], {"runs": [slower]})
    assert both["runs"] == [*results["runs"], slower]
    assert "`charged`, the milliseconds that it took" in realtime_table(both)
    assert realtime_table({}) == "Not measured yet: `erecap compare realtime`."
