"""Worker processes give the rows of a serial run, and their deaths are reported."""

import json

import pytest
from tinyworld import DyingComponents, FailingComponents, TinyComponents, tiny_run, tiny_suite

from erecap.errors import GameError, RunError
from erecap.rollout.run import run


def play(folder, quiet, *, suite=None, components=TinyComponents, **changes):
    suites = {"tiny": suite or tiny_suite()}
    return run(tiny_run(**changes), folder, suites=suites, open_components=components, console=quiet)


def contended(folder):
    lines = (folder / "episodes.jsonl").read_text() + (folder / "replans.jsonl").read_text()
    return {json.loads(line)["contended"] for line in lines.splitlines()}


@pytest.mark.parametrize("workers", [1, 2])
def test_process_rows_equal_serial_rows(tmp_path, quiet, rows_of, workers):
    suite = tiny_suite(disturbances={"slip": 0.2}, options={"broken": [1]})
    play(tmp_path / "serial", quiet, suite=suite)
    play(tmp_path / "process", quiet, suite=suite, executor="process", workers=workers)
    assert rows_of(tmp_path / "process", sort=True) == rows_of(tmp_path / "serial", sort=True)
    assert contended(tmp_path / "serial") == {False}
    assert contended(tmp_path / "process") == {workers > 1}


def test_a_worker_that_dies_costs_its_episode_only(tmp_path, quiet, rows_of):
    suite = tiny_suite(options={"deadly": [2]})
    result = play(tmp_path, quiet, suite=suite, modes=["full", "expert"], executor="process", workers=2)
    assert result.status == "finished"
    episodes, replans = rows_of(tmp_path)
    lost = [row for row in episodes if row["end"] == "error"]
    assert [row["error"] for row in lost] == ["the worker process ended with exit code 9"] * 2
    assert {row["episode"] for row in lost} == {2}
    assert 2 not in {row["episode"] for row in replans}


def test_workers_that_keep_dying_end_the_run(tmp_path, quiet):
    suite = tiny_suite(options={"deadly": [0, 1, 2, 3]})
    with pytest.raises(RunError, match="3 workers in a row died; the last: the worker process ended with exit code 9"):
        play(tmp_path, quiet, suite=suite, modes=["expert"], executor="process", workers=1)


def test_a_worker_that_dies_before_it_is_ready(tmp_path, quiet):
    with pytest.raises(RunError, match="ended with exit code 7 before it could play"):
        play(tmp_path, quiet, components=DyingComponents, executor="process", workers=2)


def test_what_a_worker_complains_about_reaches_the_caller(tmp_path, quiet):
    with pytest.raises(GameError, match="nothing to play with"):
        play(tmp_path, quiet, components=FailingComponents, executor="process", workers=2)
