"""A bounded share of the random requests; `python -m tests.fuzz.server_requests` sends as many as wanted."""

from __future__ import annotations

import re

import pytest

from tests.fuzz.server_requests import main, run


@pytest.mark.parametrize("seed", [11, 12])
def test_hostile_requests_end_well_and_leave_nothing_behind(seed: int) -> None:
    report = run(150, seed)
    assert not report.faults, report.faults[:3]
    assert report.requests == 150 and report.statuses[200] > 40 and report.statuses[400] > 20
    assert report.sessions == report.slots > 0
    assert report.allocated == report.live + report.free > 0


def test_the_command_prints_one_line_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "10", "--seed", "13"]) == 0
    line = capsys.readouterr().out.strip()
    assert re.fullmatch(r"requests 10 \(.*\), faults 0, sessions live \d+ = slots in use \d+, bytes allocated .*", line)
