"""Some requests of the fuzzer; `python -m tests.fuzz.proxy_requests` sends many."""

from __future__ import annotations

from tests.fuzz.proxy_requests import ask


def test_nothing_leaves_the_base_path_and_no_answer_is_changed() -> None:
    report = ask(400, 7)
    assert report.requests == 400 and report.passed > 30 and report.faults == []
