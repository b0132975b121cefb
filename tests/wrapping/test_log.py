"""Call logs that were cut short, and logs that several processes write to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import erecap
from erecap.errors import ConfigError
from erecap.generation import Timing, Usage
from erecap.wrapping.appending import RowFile
from erecap.wrapping.log import CallLog
from tests.tokens.models import tiny

CHAT = [{"role": "user", "content": "Find the mug."}]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


def note(log: CallLog) -> int:
    return log.note(Usage(), Timing(), "passed", "it fits")


@pytest.mark.parametrize("cut", [3, 40, "within é"])
def test_a_torn_last_row_is_cut_when_the_log_is_opened(cut: int | str, tmp_path: Path) -> None:
    log = CallLog(tmp_path, "callable", "compact")
    log.note(Usage(), Timing(), "passed", "it fits")
    whole = (tmp_path / "replans.jsonl").read_bytes()
    log.note(Usage(), Timing(), "passed", "é")
    torn = (tmp_path / "replans.jsonl").read_bytes()
    end = torn.index("é".encode()) + 1 if isinstance(cut, str) else len(whole) + cut
    (tmp_path / "replans.jsonl").write_bytes(torn[:end])
    again = CallLog(tmp_path, "callable", "compact")
    assert (tmp_path / "replans.jsonl").read_bytes() == whole and again.rows == 1
    assert [note(again), note(again)] == [1, 2]
    assert [row["replan"] for row in rows(tmp_path / "replans.jsonl")] == [0, 1, 2]


def test_a_row_without_its_line_end_stays(tmp_path: Path) -> None:
    note(CallLog(tmp_path, "callable", "compact"))
    path = tmp_path / "replans.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    log = CallLog(tmp_path, "callable", "compact")
    assert log.rows == 1 and note(log) == 1 and [row["replan"] for row in rows(path)] == [0, 1]


def test_half_a_row_that_another_process_leaves_later_is_cut_as_well(tmp_path: Path) -> None:
    log = CallLog(tmp_path, "callable", "compact")
    note(log)
    log.compare(0, 1.0, True)
    for name in ("replans.jsonl", "shadow.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"replan": 1, "to')
    assert note(log) == 1
    log.compare(1, 1.0, False)
    assert [row["replan"] for row in rows(tmp_path / "replans.jsonl")] == [0, 1]
    assert [row["agrees"] for row in rows(tmp_path / "shadow.jsonl")] == [True, False]


def test_two_logs_on_one_folder_number_their_rows_together(tmp_path: Path) -> None:
    one, other = CallLog(tmp_path, "callable", "compact"), CallLog(tmp_path, "callable", "compact")
    assert [note(log) for log in (one, other, other, one)] == [0, 1, 2, 3]
    assert one.rows == 4 and other.rows == 3


def test_processes_that_share_a_folder_never_give_a_number_twice(tmp_path: Path) -> None:
    code = (
        "import erecap, sys\n"
        "wrapped = erecap.wrap(lambda messages: sys.argv[1], keep_tokens=60, log='log')\n"
        f"for _ in range(40): wrapped({CHAT!r})\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, f"p{number}"], cwd=tmp_path) for number in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    assert [row["replan"] for row in rows(tmp_path / "log" / "replans.jsonl")] == list(range(120))


def test_a_file_that_was_emptied_is_numbered_anew(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    assert [file.append(lambda n: {"n": n}) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "rows.jsonl").write_bytes(b"")
    assert file.append(lambda n: {"n": n}) == 0 and rows(tmp_path / "rows.jsonl") == [{"n": 0}]


def test_a_figure_that_is_not_finite_writes_nothing(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        file.append(lambda n: {"n": float("nan")})
    assert file.append(lambda n: {"n": n}) == 0


def test_without_a_folder_calls_are_counted() -> None:
    wrapped = erecap.wrap(lambda messages: "x", keep_tokens=60)
    wrapped(CHAT), wrapped(CHAT)
    assert wrapped.log.rows == 2


@pytest.mark.parametrize(
    ("options", "because"),
    [
        ({"keep_tokens": 60}, r"tokens of the call pass keep_tokens=60$"),
        ({"keep": 0.5}, r"^keep=0.5 of the \d+ tokens"),
    ],
)
def test_rows_of_texts_say_why_something_was_left_out(options: dict, because: str, tmp_path: Path) -> None:
    wrapped = erecap.wrap(lambda messages: "look", **options, log=tmp_path)
    chat = list(CHAT)
    for turn in range(8):
        wrapped(chat)
        chat += [{"role": "assistant", "content": "look"}, {"role": "user", "content": f"Shelf {turn} is empty. " * 3}]
    noted = rows(tmp_path / "replans.jsonl")
    assert {row["decision"] for row in noted} == {"passed", "pruned"}
    for row in noted:
        assert (row["dropped_because"] is not None) == (row["decision"] == "pruned")
        assert row["dropped_because"] is None or re.search(because, row["dropped_because"])


@pytest.mark.parametrize(
    "options", [{"keep_tokens": 60}, {"budget": 64}, {"keep": 0.5}], ids=["text", "session", "prune"]
)
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('{"format": 1, "name": "demo", "config": {}}', "is the folder of a run, not the log of a wrapped planner"),
        ("[]", "is the folder of a run"),
        ('{"format": 1, "na', "run.json is damaged"),
    ],
)
def test_a_run_is_not_written_into(head: str, message: str, options: dict, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(head)
    (tmp_path / "replans.jsonl").write_text('{"torn": ')
    target = (lambda messages: "x") if "keep_tokens" in options else tiny("llama")
    with pytest.raises(ConfigError, match=message) as refused:
        erecap.wrap(target, **options, log=tmp_path)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["replans.jsonl", "run.json"]
    assert (tmp_path / "run.json").read_text() == head and (tmp_path / "replans.jsonl").read_text() == '{"torn": '


@pytest.mark.parametrize(
    "options", [{"keep_tokens": 60}, {"budget": 64}, {"keep": 0.5}], ids=["text", "session", "prune"]
)
@pytest.mark.parametrize("log", ["", 5, True, b"log", ["log"], "file", "file/below"])
def test_what_cannot_be_a_folder(log: object, options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    target = (lambda messages: "x") if "keep_tokens" in options else tiny("llama")
    with pytest.raises(ConfigError, match=r"^log: (got .*; allowed: a folder|file.* cannot be a folder.*)$"):
        erecap.wrap(target, **options, log=log)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
