"""Results that are kept of runs in Habitat and of cooperating planners, and their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.report import Report
from tests.report.synthetic import episode_row, replan_row, write_run
from tools.readme.cooperative_table import cooperative_figures, cooperative_results, cooperative_table
from tools.readme.habitat_table import habitat_results, habitat_table
from tools.readme.kept_run import read_run

MODES = ("reuse", "automatic", "erecap-1024")


def houses(folder: Path, *, modes: tuple[str, ...] = MODES, episodes: int = 4) -> Path:
    """All episodes are won, but the last one with a budget of 1,024."""
    rows: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for mode in modes:
        for number in range(episodes):
            lost = mode == "erecap-1024" and number == episodes - 1
            measures = {"soft_spl": 0.5 if lost else 1.0}
            rows.append(episode_row("houses", mode, number, success=not lost, measures=measures))
            calls.append(replan_row("houses", mode, number, 0, total_ms=80.0 if mode == "reuse" else 20.0))
    run = write_run(folder, rows, calls, config={"name": "habitat", "modes": list(modes)})
    Report.of(run).write()
    return run


def test_h1_is_success_of_the_automatic_budget_minus_unpruned(tmp_path: Path) -> None:
    results = habitat_results(houses(tmp_path / "run"))
    assert json.loads(json.dumps(results)) == results
    (row,) = results["rows"]
    assert (row["id"], row["measured"], row["n"], row["holds"]) == ("H1", 0, 4, False)  # few episodes judge nothing
    assert row["note"] == "with 1024 tokens −25.0 points; replan P50 20 ms, unpruned 80 ms"
    table = habitat_table(results)
    assert "+0 points (+0 to +0, n = 4; wanted >= -2): too few episodes to judge." in table
    assert "| `erecap-1024` | 4 | 75 % |" in table and "| houses | `erecap-1024` | 75 % | 0.88 |" in table


def test_enough_episodes_judge(tmp_path: Path) -> None:
    (row,) = habitat_results(houses(tmp_path / "run", episodes=100))["rows"]
    assert row["n"] == 100 and row["holds"]


def test_a_run_that_lacks_a_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="H1 compares automatic with reuse"):
        habitat_results(houses(tmp_path / "run", modes=("automatic", "erecap-1024")))


def test_an_interrupted_run_is_refused(tmp_path: Path) -> None:
    folder = houses(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    (folder / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}), "utf-8")
    with pytest.raises(ValueError, match="the run is interrupted"):
        read_run(folder)


def test_cooperating_planners_by_their_number(tmp_path: Path) -> None:
    folders = []
    for agents in (4, 2):
        team = {"robots": agents, "agents": agents, "waited": 10.0, "conflicts": 1, "seconds": 100.0, "success": True}
        again = {"new_tokens": 200, "total_ms": 80.0, "same": True}
        rows = [episode_row("gather", mode, 0, **team) for mode in ("reuse", "erecap-1024")]
        calls = [
            replan_row("gather", "reuse", 0, 0, new_tokens=50, total_ms=40.0, reread=again, agent="robot 1"),
            replan_row("gather", "erecap-1024", 0, 0, new_tokens=50, total_ms=20.0, agent="robot 1"),
        ]
        config = {"name": "cooperative", "batch": 8 if agents == 4 else 1}
        folders.append(write_run(tmp_path / f"run-{agents}", rows, calls, config=config))
        Report.of(folders[-1]).write()
    results = cooperative_results(folders, {})
    assert cooperative_results(folders[1:], cooperative_results(folders[:1], {})) == results  # one after the other
    assert cooperative_results(folders[:1], results) == results  # once more
    figures = cooperative_figures(results)
    assert list(figures) == ["cooperative-success.svg", "cooperative-seconds.svg"]
    # Re-reading has no success of its own, and is a line among the times.
    assert ["re-read" in svg for svg in figures.values()] == [False, True]
    assert all(svg.startswith("<?xml") and "erecap-1024" in svg for svg in figures.values())
    table = cooperative_table(results).splitlines()
    batched = "`erecap compare made-up reread=null batch=8`"
    assert table[0].startswith(f"`erecap compare made-up`, {batched} (2026-01-02; household-unseen, babyai-goto; ")
    assert [line.split(" | ")[:2] for line in table[4:10]] == [
        [f"| {agents}", f"`{mode}`"] for agents in (2, 4) for mode in ("re-read", "reuse", "erecap-1024")
    ]
    assert table[6].startswith("| 2 | `erecap-1024` | 1 | 100 % |") and " | 50 | 0.250 | 20 ms | 0.250 | " in table[6]


def test_without_results_the_tables_name_the_command() -> None:
    assert habitat_table({}) == "Not measured yet: `erecap compare habitat`."
    assert cooperative_table({}) == "Not measured yet: `erecap compare cooperative`."
