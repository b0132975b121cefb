"""The reader of run folders: rows that it takes, leaves out, and refuses with file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from erecap.errors import RunError
from erecap.report.load import load_run_folder
from tests.report.synthetic import episode_row, make_head, replan_row, sample, write_rows, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "run",
        [episode_row("s", "full", 0), episode_row("s", "full", 1)],
        [replan_row("s", "full", 0, 0), replan_row("s", "full", 1, 0)],
        [sample("s", "full", 0)],
    )


def refused(folder: Path, pattern: str) -> None:
    with pytest.raises(RunError) as caught:
        load_run_folder(folder)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_reads_a_run(folder: Path) -> None:
    run = load_run_folder(folder)
    assert [row.episode for row in run.episodes] == [0, 1]
    assert len(run.replans) == 2
    assert len(run.samples) == 1
    assert run.modes[:2] == ["expert", "full"]  # as configured, whether played or not
    assert run.suites == ["household-unseen", "babyai-goto", "s"]
    assert (run.orphan_replans, run.torn_rows) == (0, 0)


def test_calls_of_unfinished_episodes_are_left_out(folder: Path) -> None:
    write_rows(folder / "replans.jsonl", [replan_row("s", "full", n, 0) for n in (0, 1, 2, 2)])
    run = load_run_folder(folder)
    assert {call.episode for call in run.replans} == {0, 1}
    assert run.orphan_replans == 2


def test_a_torn_last_row_is_left_out_of_an_unfinished_run_only(folder: Path) -> None:
    path = folder / "episodes.jsonl"
    path.write_bytes(path.read_bytes() + '{"suite": "s", "goal": "caf\u00e9'.encode()[:-1])
    refused(folder, r"episodes.jsonl:3: the row breaks off")
    (folder / "run.json").write_text(json.dumps(make_head(status="interrupted")), encoding="utf-8")
    run = load_run_folder(folder)
    assert len(run.episodes) == 2
    assert run.torn_rows == 1


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"success": "maybe"}, r'episodes.jsonl:2: success: .*\(got "maybe"\)'),
        ({"progress": 1.5}, r"episodes.jsonl:2: progress: .*less than or equal to 1 \(got 1.5\)"),
        ({"end": "gone"}, r"episodes.jsonl:2: end: .*'success', 'horizon', 'deadline' or 'error'"),
        ({"steps": -1}, r"episodes.jsonl:2: steps"),
        ({"path_length": float("nan")}, r"episodes.jsonl:2: path_length"),
        ({"episode": 0}, r"episodes.jsonl:2: episode 0 of s in mode full occurs twice"),
    ],
)
def test_damaged_episode_rows(folder: Path, change: dict[str, Any], pattern: str) -> None:
    write_rows(folder / "episodes.jsonl", [episode_row("s", "full", 0), episode_row("s", "full", 1) | change])
    refused(folder, pattern)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"total_ms": float("inf")}, r"replans.jsonl:2: total_ms"),
        ({"total_ms": 1e308}, r"replans.jsonl:2: total_ms"),
        ({"prompt_tokens": 10**30}, r"replans.jsonl:2: prompt_tokens: .*less than or equal to 1000000000000000"),
        ({"kept_per_layer": [3, 2]}, r"replans.jsonl:2: kept_per_layer has 2 entries, but the model has 30 layers"),
        ({"episode": 0}, r"replans.jsonl:2: replan 0 of episode 0 of s in mode full occurs twice"),
    ],
)
def test_damaged_replan_rows(folder: Path, change: dict[str, Any], pattern: str) -> None:
    write_rows(folder / "replans.jsonl", [replan_row("s", "full", 0, 0), replan_row("s", "full", 1, 0) | change])
    refused(folder, pattern)


@pytest.mark.parametrize(
    "config",
    [
        {"modes": 5}, {"modes": None}, {"modes": [5]}, {"compositions": "x"}, {"compositions": [5]},
        {"compositions": {"full": 5}}, {"budget": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_of_another_shape(folder: Path, config: dict[str, Any]) -> None:
    head = make_head()
    (folder / "run.json").write_text(json.dumps(head | {"config": head["config"] | config}), encoding="utf-8")
    [key] = config
    refused(folder, rf"run\.json: config: .*{key} is no ")


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"nowhere: no such run folder")
    refused(tmp_path, r"run.json: file is missing")
    path = next((folder / "samples").iterdir())
    path.write_text("{", encoding="utf-8")
    refused(folder, r"samples.*\.json: Invalid JSON")
    entry = sample("s", "full", 0)
    entry["steps"][0]["frame"] = 'javascript:alert("x")'
    path.write_text(json.dumps(entry), encoding="utf-8")
    refused(folder, r"steps.0.frame")
    path.unlink()
    rows = folder / "episodes.jsonl"
    rows.write_bytes(b"\xff\xfe\n" + rows.read_bytes())
    refused(folder, r"episodes.jsonl:1: Invalid JSON")
    rows.write_text("\n", encoding="utf-8")
    refused(folder, r"episodes.jsonl:1: ")
    (folder / "run.json").write_text(json.dumps(make_head(format=9)), encoding="utf-8")
    refused(folder, r"run.json: run format 9 is unknown; allowed is 1")


@pytest.mark.parametrize("line", ["5", "null", "[]"])
@pytest.mark.parametrize("name", ["episodes.jsonl", "replans.jsonl"])
def test_a_line_that_is_no_object(folder: Path, name: str, line: str) -> None:
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    refused(folder, rf"{name}:3: ")


def test_unicode_line_separators_do_not_split_rows(folder: Path) -> None:
    text = json.dumps(episode_row("s", "full", 0, goal="a\u2028b\u0085c"), ensure_ascii=False)
    (folder / "episodes.jsonl").write_text(text + "\n", encoding="utf-8")
    assert load_run_folder(folder).episodes[0].goal == "a\u2028b\u0085c"
