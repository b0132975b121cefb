"""Answers on disk: kept, resumed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.errors import RunError
from erecap.tuning.agreement import Answers
from erecap.tuning.record import NAME, Record

HEAD = {"weights": "sha256:1", "keep": 0.7}
ONE, TWO = Answers([[5, 3], [6, 2]], [1, 2], [3, 3]), Answers([[5, 5], [6, 6]], [3, 3], [3, 3])


def filled(folder: Path) -> Path:
    record = Record(folder, HEAD)
    record.add("search", (4, 7), ONE)
    record.add("held-out", (4, 7), TWO)
    return folder / NAME


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path)
    record = Record(tmp_path, HEAD)
    assert len(record) == 2
    assert record.get("search", (4, 7)) == ONE and record.get("held-out", (4, 7)) == TWO
    assert record.get("search", (4,)) is None
    assert record.of("search") == {(4, 7): ONE}


def test_a_row_that_was_cut_short_goes_and_what_follows_is_whole(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    record = Record(tmp_path, HEAD)
    assert len(record) == 1
    record.add("search", (5,), TWO)
    assert Record(tmp_path, HEAD).of("search") == {(4, 7): ONE, (5,): TWO}
    path.write_bytes(path.read_bytes()[:7])  # not even the head
    assert len(Record(tmp_path, HEAD)) == 0


def test_other_questions_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with pytest.raises(RunError, match=r"tried with keep 0\.7, here it is 0\.8; --fresh"):
        Record(tmp_path, {**HEAD, "keep": 0.8})
    assert len(Record(tmp_path, HEAD)) == 2  # nothing was lost by asking
    assert len(Record(tmp_path, {**HEAD, "keep": 0.8}, fresh=True)) == 0
    path.write_text('{"format": "something"}\n')
    with pytest.raises(RunError, match="not a record of stage sets"):
        Record(tmp_path, HEAD)


@pytest.mark.parametrize(
    "row",
    [
        "{}",
        "nonsense",
        "[1]",
        '{"part": "search", "stages": [4], "kept": [[1]], "same": [1, 2], "tokens": [3]}',
        '{"part": "search", "stages": [4], "kept": [], "same": [], "tokens": []}',
        '{"part": "search", "stages": [4], "kept": [["x"]], "same": [1], "tokens": [3]}',
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, row: str) -> None:
    path = filled(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], row, *lines[1:]]) + "\n")
    with pytest.raises(RunError, match=rf"{NAME}:2: the row is damaged"):
        Record(tmp_path, HEAD)
