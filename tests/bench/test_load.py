"""Many agents on one server, and on two behind a proxy of which one is lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from erecap.bench.load import LoadBench, load_bench, load_summary
from erecap.cli.main import app
from erecap.errors import ModelError
from tests.serving.conftest import Server
from tests.serving.recorded import Behind
from tests.serving.test_replicas import proxy


def test_sixteen_agents_lose_nothing_when_a_server_is_lost() -> None:
    servers = [Server(), Server()]
    bench = LoadBench(agents=16, calls=2, history=60, new_tokens=20, plan_tokens=2)
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:
            stopped = threading.Timer(0.3, servers[0].stop)
            stopped.start()
            found = load_bench(bench, f"{url}/v1")
            stopped.join()
    finally:
        servers[1].stop()
    summary = found["summary"]
    assert (summary["calls"], summary["failed"], len(found["rows"])) == (32, 0, 32)
    assert summary["p50_s"] <= summary["p95_s"] <= summary["max_s"]
    assert all(row["completion_tokens"] <= 2 and row["prompt_tokens"] > 60 for row in found["rows"])


def test_the_command(tmp_path: Path) -> None:
    server = Server()
    options = ["--agents", "2", "--calls", "2", "--history", "60", "--new-tokens", "20", "--plan-tokens", "2"]
    out = tmp_path / "load.json"
    try:
        done = CliRunner().invoke(app, ["bench", "load", f"{server.url}/v1", *options, "--out", str(out)])
        assert done.exit_code == 0 and "4 calls of 2 agents, 0 failed" in done.output, done.output
        assert json.loads(out.read_text())["summary"]["cached"] > 0.3
    finally:
        server.stop()
    with pytest.raises(ModelError, match="cannot be reached"):
        load_bench(LoadBench(agents=1), f"{server.url}/v1")


def test_failures_are_counted() -> None:
    good = {"agent": 0, "call": 1, "error": None, "prompt_tokens": 100, "cached_tokens": 75, "seconds": 2.0}
    rows = [{**good, "call": 0, "cached_tokens": 0, "seconds": 4.0}, good, {"agent": 0, "call": 2, "error": "gone"}]
    summary = load_summary(rows, 10.0)
    assert (summary["calls"], summary["failed"], summary["first_error"]) == (3, 1, "gone")
    assert (summary["p50_s"], summary["max_s"], summary["cached"], summary["calls_per_s"]) == (3.0, 4.0, 0.75, 0.2)
    with pytest.raises(ValueError, match="counts from 1 on"):
        LoadBench(agents=0)


def test_a_chat_beyond_the_window_is_a_failed_call() -> None:
    small = Server(window=4096)
    try:
        bench = LoadBench(agents=1, calls=2, history=5000, new_tokens=20, plan_tokens=2)
        summary = load_bench(bench, f"{small.url}/v1")["summary"]
    finally:
        small.stop()
    assert (summary["calls"], summary["failed"]) == (2, 2) and "does not fit" in summary["first_error"]


def test_an_interrupt_ends_the_pauses_of_all_agents() -> None:
    behind = Behind()
    behind.answers(b'{"data": [{"id": "m"}]}')

    def interrupt() -> None:
        while not behind.body:  # of the first call
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    interrupts = threading.Thread(target=interrupt, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            bench = LoadBench(agents=2, calls=2, history=60, pause_s=20.0)
            load_bench(bench, f"{behind.url}/v1", lambda line: interrupts.start())
        assert b"go on" not in behind.body  # what an agent says to itself before its second call
    finally:
        signal.signal(signal.SIGINT, before)
        behind.close()
