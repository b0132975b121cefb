"""Figures of cooperating planners, on rows that can be counted by hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from erecap.report import Report
from erecap.report.load import load_run_folder
from erecap.report.page.html import render_page
from erecap.report.page.summary import summarise
from tests.report.synthetic import episode_row, replan_row, write_run

TEAM = {"robots": 2, "agents": 2, "waited": 10.0, "conflicts": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    episodes, replans = [], []
    for mode, won in (("reuse", (True, True)), ("erecap", (True, False))):
        for number, success in enumerate(won):
            end = "success" if success else "horizon"
            changes = {**TEAM, "success": success, "end": end, "seconds": 100.0 + 50 * number, "replans": 2}
            episodes.append(episode_row("gather", mode, number, **changes))
            for call in range(2):
                share = 1.0 if call == 0 else 0.2  # of the first call's tokens and time
                ms = (40.0 if mode == "reuse" else 20.0) * share
                cost = {"new_tokens": int(50 * share), "total_ms": ms, "kv_bytes": 1000}
                again = {"new_tokens": 200, "total_ms": 80.0, "same": True}
                cost["reread"] = again if mode == "reuse" and call == 0 else None
                replans.append(replan_row("gather", mode, number, call, **cost, agent=f"robot {call + 1}"))
    return write_run(tmp_path / "run", episodes, replans)


def test_figures_by_number_of_planners_and_mode(folder: Path) -> None:
    found = {entry["mode"]: entry for entry in summarise(load_run_folder(folder))["teams"]}
    assert list(found) == ["re-read", "reuse", "erecap"] and {entry["agents"] for entry in found.values()} == {2}
    assert [found[mode]["sr"]["value"] for mode in found] == [1.0, 1.0, 0.5]
    assert [found[mode]["seconds"] for mode in found] == [125.0, 125.0, 100.0]  # of episodes that were won
    assert [found[mode]["tokens"] for mode in found] == [200, 30, 30] and found["re-read"]["calls"] == 2
    assert [found[mode]["ms"] for mode in found] == [80.0, 24.0, 12.0]
    assert found["erecap"]["waited"] == 10.0 and found["erecap"]["conflicts"] == 1.0
    # Over the first calls alone, which were re-read: the others do not count on one side only.
    assert found["erecap"]["ms_ratio"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert found["erecap"]["tokens_ratio"]["value"] == 0.25 and found["re-read"]["ms_ratio"] is None


def test_the_page_and_the_terminal_show_them(folder: Path) -> None:
    run = load_run_folder(folder)
    page = render_page(run, summarise(run))
    assert '<section id="teams">' in page and "success rate, % against the number of cooperating planners" in page
    assert "<h3>Episodes by number of planners</h3>" in page and "<h3>Calls by number of planners</h3>" in page
    calls = page.partition("<h3>Calls by number of planners</h3>")[2].partition("</table>")[0]
    assert calls.count("<tr>") == 4 and "0.25 to 0.25" in calls and "no language model" not in calls
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(Report.of(folder).table())
    text = console.export_text()
    assert "Cooperating planners" in text and "re-read" in text


def test_episodes_of_one_suite_with_other_numbers_of_planners_stand_apart(tmp_path: Path) -> None:
    """Runs from before teams were counted whole have rows of fewer planners beside the others."""
    episodes = [episode_row("gather", "reuse", number, **{**TEAM, "agents": 2 - number}) for number in range(2)]
    replans = [replan_row("gather", "reuse", number, 0, new_tokens=50 + number) for number in range(2)]
    found = summarise(load_run_folder(write_run(tmp_path / "run", episodes, replans)))["teams"]
    assert [(entry["agents"], entry["counted"], entry["tokens"]) for entry in found] == [(1, 1, 51), (2, 1, 50)]


def test_without_a_model_there_are_no_calls_to_show(tmp_path: Path) -> None:
    run = load_run_folder(write_run(tmp_path / "run", [episode_row("gather", "expert", 0, **TEAM)], []))
    page = render_page(run, summarise(run))
    calls = page.partition("<h3>Calls by number of planners</h3>")[2].partition("</table>")[0]
    assert calls.count("<tr>") == 2 and "No language model was called in this run." in calls


def test_a_run_of_single_planners_has_no_such_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [episode_row("a", "full", 0)], [replan_row("a", "full", 0, 0)])
    run = load_run_folder(folder)
    summary = summarise(run)
    assert summary["teams"] == [] and '<section id="teams">' not in render_page(run, summary)
