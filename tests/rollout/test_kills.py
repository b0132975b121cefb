"""A few kills of the fuzzer; `python -m tests.fuzz.rollout_kills` makes many."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.rollout_kills import Report, keys_of, kill_rollouts


def test_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    report = kill_rollouts(3, 1, tmp_path)
    assert report.kills == 3 and report.rollouts >= 1 and report.faults == []


def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path) -> None:
    row = b'{"suite": "s", "mode": "m", "episode": 1}\n'
    for content, fault in ((row + row, "doubled"), (b'{"suite": "s"\n' + row, "torn")):
        (tmp_path / "episodes.jsonl").write_bytes(content)
        report = Report()
        assert keys_of(tmp_path, report) == {("s", "m", 1)} and fault in report.faults[0]
