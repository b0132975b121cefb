"""The report of a call log: damage is told with file and line, a torn last row is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.errors import RunError
from erecap.generation import Timing, Usage
from erecap.report.load import load_run_folder
from erecap.report.page.calls import is_call_log, summarise_calls
from erecap.wrapping.log import CallLog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = CallLog(tmp_path, "callable", "compact")
    for _ in range(2):
        log.compare(log.note(Usage(), Timing(total_ms=2.0), "passed", "it fits"), 1.0, True)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"5", "no JSON object, got 5"),
        (b"null", "no JSON object, got null"),
        (b'["replan"]', 'no JSON object, got ["replan"]'),
        (b"{}", "the row lacks replan, "),
        (b"garbage", "no JSON: "),
        (b'"\xff"', "no JSON: "),
    ],
)
@pytest.mark.parametrize("name", ["replans.jsonl", "shadow.jsonl"])
def test_a_line_that_is_no_row(folder: Path, name: str, line: bytes, why: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RunError) as caught:
        summarise_calls(folder)
    assert str(caught.value).startswith(f"{folder / name}:3: {why}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("torn", [b"5", b'{"replan": 2, "more": {}', b'{"reason": "caf\xc3'])
def test_a_torn_last_row_is_left_out(folder: Path, torn: bytes) -> None:
    path = folder / "replans.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert summarise_calls(folder)["calls"] == 2
    path.write_bytes(path.read_bytes().removesuffix(b"\n" + torn))
    assert summarise_calls(folder)["calls"] == 2


def test_a_head_that_is_no_object(folder: Path) -> None:
    assert is_call_log(folder)
    (folder / "run.json").write_text("5")
    assert not is_call_log(folder)
    with pytest.raises(RunError, match=r"run\.json: "):
        load_run_folder(folder)
