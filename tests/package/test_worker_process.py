"""A worker in another interpreter: answers, failures, time limits, crashes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from erecap.errors import ConfigError, RunError
from erecap.worker_process import WorkerProcess

PYTHON = Path(sys.executable)
ECHO = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "sleep":
        time.sleep(600)
    if request["do"] == "crash":
        sys.stderr.write("segmentation fault, as it were\\n"); sys.stderr.flush(); os._exit(3)
    if request["do"] == "fail":
        print(json.dumps({"error": "no such scene"}), flush=True)
    else:
        print(json.dumps({"got": request}), flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(ECHO, encoding="utf-8")
    return path


def test_requests_are_answered_in_order_and_failures_do_not_end_the_worker(worker: Path) -> None:
    with WorkerProcess("echo", PYTHON, worker) as process:
        for number in range(3):
            assert process.ask("say", number=number, text="ä\u2028b")["got"]["number"] == number
        with pytest.raises(RunError, match=r"^echo failed at 'fail': no such scene$"):
            process.ask("fail")
        assert process.ask("say", text="on")["got"]["text"] == "on"


def test_a_crash_is_told_with_the_last_words(worker: Path) -> None:
    with WorkerProcess("echo", PYTHON, worker) as process:
        with pytest.raises(RunError, match="ended at 'crash': segmentation fault, as it were"):
            process.ask("crash")
        with pytest.raises(RunError, match="ended at 'say'"):
            process.ask("say")


def test_a_request_that_takes_too_long_ends_the_worker(worker: Path) -> None:
    with WorkerProcess("echo", PYTHON, worker, time_limit=0.3) as process:
        with pytest.raises(RunError, match=r"took longer than 0\.3 s at 'sleep', and was ended"):
            process.ask("sleep")


def test_a_missing_interpreter_is_refused(worker: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no interpreter for echo"):
        WorkerProcess("echo", tmp_path / "python", worker)
    (tmp_path / "python").write_text("no program")
    with pytest.raises(ConfigError, match="does not run"):
        WorkerProcess("echo", tmp_path / "python", worker)
