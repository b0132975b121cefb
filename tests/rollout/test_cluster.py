"""Workers on a Ray cluster give the rows of a serial run, and losses are reported. Two nodes of one CPU each."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tinyworld import DyingComponents, FailingComponents, TinyComponents, UnequalComponents, tiny_run, tiny_suite

from erecap.errors import ConfigError, GameError, RunError
from erecap.rollout.executors import cluster
from erecap.rollout.run import run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def nodes():
    """The address of a cluster whose workers can import the small text world."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TINY_DELAY", "0.05")
        ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            ray_cluster.add_node(num_cpus=1)
            yield ray_cluster.address
        finally:
            ray_cluster.shutdown()


@pytest.fixture
def play(nodes, monkeypatch, quiet):
    monkeypatch.setenv("RAY_ADDRESS", nodes)

    def play(folder, *, suite=None, components=TinyComponents, **changes):
        config = tiny_run(**{"executor": "ray", "workers": 2, **changes})
        return run(config, folder, suites={"tiny": suite or tiny_suite()}, open_components=components, console=quiet)

    return play


def test_rows_equal_serial_rows(tmp_path, play, quiet, rows_of):
    suite = tiny_suite(disturbances={"slip": 0.2}, options={"broken": [1]})
    modes = ["full", "prune[recency]", "expert", {"name": "mine", "kv": "reuse", "prune": "random"}]
    play(tmp_path / "serial", suite=suite, executor="serial", workers=1, modes=modes)
    before = signal.getsignal(signal.SIGTERM)
    # With one CPU a node, two workers are on two nodes. An episode begins when both play.
    suite = tiny_suite(disturbances={"slip": 0.2}, options={"broken": [1], "meeting": str(tmp_path / "book")})
    result = play(tmp_path / "ray", suite=suite, modes=modes)
    assert (result.status, result.played) == ("finished", 16)
    assert rows_of(tmp_path / "ray", sort=True) == rows_of(tmp_path / "serial", sort=True)
    lines = (tmp_path / "ray" / "episodes.jsonl").read_text().splitlines()
    assert {json.loads(line)["contended"] for line in lines} == {True}
    assert signal.getsignal(signal.SIGTERM) is before
    assert "starting 2 workers on a Ray cluster (nodes: 2), each with 1 CPU" in quiet.file.getvalue()


def test_who_waits_is_told_what_for(tmp_path, play, quiet, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.01)
    play(tmp_path, modes=["expert"], workers=1)
    assert re.search(r"no worker is ready yet; each needs 1 CPU; free: \d CPUs, 0 GPUs", quiet.file.getvalue())


def test_a_gpu_is_chosen_by_ray():
    with pytest.raises(ValueError, match="device: got cuda:1 with executor ray; allowed: auto, cpu, cuda"):
        tiny_run(executor="ray", device="cuda:1")


def test_more_workers_than_fit(tmp_path, play):
    result = play(tmp_path, workers=5, modes=["expert"])
    assert (result.status, result.played) == ("finished", 4)


def test_a_lost_worker_costs_its_episode_only(tmp_path, play, rows_of):
    result = play(tmp_path, suite=tiny_suite(options={"deadly": [2]}), modes=["full", "expert"])
    assert result.status == "finished"
    episodes, replans = rows_of(tmp_path)
    lost = [row for row in episodes if row["end"] == "error"]
    assert [row["error"] for row in lost] == ["the cluster lost the worker"] * 2
    assert {row["episode"] for row in lost} == {2}
    assert 2 not in {row["episode"] for row in replans}


def test_workers_that_keep_being_lost_end_the_run(tmp_path, play):
    with pytest.raises(RunError, match="the cluster lost 3 workers in a row"):
        play(tmp_path, suite=tiny_suite(options={"deadly": [0, 1, 2, 3]}), modes=["expert"], workers=1)


def test_a_worker_that_is_lost_before_it_is_ready(tmp_path, play):
    with pytest.raises(RunError, match="ended before it could play"):
        play(tmp_path, components=DyingComponents)


def test_what_a_worker_complains_about_reaches_the_caller(tmp_path, play):
    with pytest.raises(GameError, match="nothing to play with"):
        play(tmp_path, components=FailingComponents)


def test_nodes_with_different_weights_are_refused(tmp_path, play):
    with pytest.raises(RunError, match="two workers of the cluster have loaded different models: hash; allowed"):
        play(tmp_path, components=UnequalComponents)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_run_that_goes_on(tmp_path, play, nodes, rows_of, number):
    arguments = [sys.executable, str(HERE / "tinyworld.py"), str(tmp_path), "--executor", "ray", "--workers", "2"]
    environment = {**os.environ, "RAY_ADDRESS": nodes}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)
    rows = tmp_path / "episodes.jsonl"
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 130
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    before = len(rows_of(tmp_path)[0])
    assert before < 12
    result = play(tmp_path)
    assert (result.status, result.played) == ("finished", 12 - before)


@pytest.mark.integration
def test_the_command_plays_a_real_simulator(tmp_path, nodes, monkeypatch, rows_of, erecap):
    monkeypatch.setenv("RAY_ADDRESS", nodes)
    for name, more in (("a", []), ("b", ["--ray", "--workers", 2])):
        code, out, err = erecap(
            "rollout", "demo-full", "suites=babyai-mixed", "modes=expert", "episodes=3", *more, "--out", name
        )
        assert code == 0 and f"{name}: 3 episodes" in out, err
    assert rows_of(tmp_path / "b", sort=True) == rows_of(tmp_path / "a", sort=True)
    recorded = json.loads((tmp_path / "b" / "run.json").read_text())["config"]
    assert (recorded["executor"], recorded["workers"]) == ("ray", 2)


def test_no_cluster_at_the_address(tmp_path, play, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match=r"no Ray cluster answers at 127.0.0.1:1; start one with `ray start --head`"):
        play(tmp_path)


def test_ray_is_not_installed(tmp_path, monkeypatch, quiet):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"executor ray: ray is not installed; pip install 'erecap\[ray\]'"):
        run(tiny_run(executor="ray"), tmp_path, suites={"tiny": tiny_suite()}, console=quiet)


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [([8, 8], 2, 8), ([8, 8], 3, 4), ([3, 3], 3, 1), ([16, 4], 5, 4), ([2], 7, 1), ([], 2, 1), ([0, 6], 2, 3)],
)
def test_threads_that_let_all_workers_fit(cpus, workers, threads):
    assert cluster.threads_of(cpus, workers) == threads
