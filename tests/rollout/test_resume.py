"""A run that was killed at any point goes on, and ends with the rows of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tinyworld import FailingComponents, TinyComponents, tiny_run, tiny_suite

from erecap.errors import GameError, RunError
from erecap.report.load import load_run_folder
from erecap.rollout.run import run
from erecap.rollout.run_folder.lock import owned

PROGRAM = Path(__file__).parent / "tinyworld.py"
SUITES = {"tiny": tiny_suite()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    run(tiny_run(samples=1), folder, suites=SUITES, open_components=TinyComponents)
    return folder


def start(folder: Path, *arguments: str, delay: float = 0.01) -> subprocess.Popen:
    environment = {**os.environ, "TINY_DELAY": str(delay), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for_rows(folder: Path, program: subprocess.Popen, size: int = 1) -> None:
    deadline = time.monotonic() + 60
    path = folder / "episodes.jsonl"
    while not (path.exists() and path.stat().st_size >= size) and program.poll() is None:
        assert time.monotonic() < deadline, "no row was written"
        time.sleep(0.005)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(whole, tmp_path, rows_of, seed):
    moments = random.Random(seed)
    for _ in range(2):
        before = (tmp_path / "episodes.jsonl").stat().st_size if (tmp_path / "episodes.jsonl").exists() else 0
        program = start(tmp_path)
        if moments.random() < 0.8:
            wait_for_rows(tmp_path, program, before + 1)
        time.sleep(moments.uniform(0, 0.15))
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert start(tmp_path, delay=0).wait() == 0
    assert rows_of(tmp_path) == rows_of(whole)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {p.name for p in (whole / "samples").iterdir()}


@pytest.mark.parametrize("seed", range(12))
def test_cut_at_any_byte(whole, tmp_path, rows_of, quiet, seed):
    """A kill can leave whole episodes, replan rows of the next one, and either file's last row torn."""
    moment = random.Random(seed)
    episodes = (whole / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    replans = (whole / "replans.jsonl").read_bytes().splitlines(keepends=True)
    done = moment.randrange(len(episodes))
    keys = [(row["mode"], row["episode"]) for row in map(json.loads, episodes[:done])]
    mine = [line for line in replans if (json.loads(line)["mode"], json.loads(line)["episode"]) in keys]
    following = b"".join(replans[len(mine) :])
    torn = following[: moment.randrange(len(following))]
    half = episodes[done][: moment.choice([0, 1, len(episodes[done]) // 2, len(episodes[done]) - 1])]
    (tmp_path / "episodes.jsonl").write_bytes(b"".join(episodes[:done]) + half)
    (tmp_path / "replans.jsonl").write_bytes(b"".join(mine) + torn)
    head = json.loads((whole / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**head, "status": "running"}))
    (tmp_path / ".summary.json.x.part").write_text("half")
    result = run(tiny_run(samples=1), tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    assert result.played == len(episodes) - done
    assert rows_of(tmp_path) == rows_of(whole)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((), signal.SIGINT), ((), signal.SIGTERM), (("--executor", "process", "--workers", "2"), signal.SIGINT)],
)
def test_ctrl_c_leaves_a_valid_run(whole, tmp_path, rows_of, arguments, number):
    program = start(tmp_path, *arguments, delay=0.03)
    wait_for_rows(tmp_path, program)
    os.killpg(program.pid, number)  # as a terminal does: workers get it too
    assert program.wait(30) == 130
    read = load_run_folder(tmp_path)
    assert read.head.status == "interrupted"
    assert 0 < len(read.episodes) < 12
    assert not any(row.error for row in read.episodes)
    assert (read.orphan_replans, read.torn_rows) == (0, 0)
    assert start(tmp_path, *arguments, delay=0).wait() == 0
    assert rows_of(tmp_path, sort=True) == rows_of(whole, sort=True)


def test_a_finished_run_loads_nothing(whole, quiet):
    result = run(tiny_run(samples=1), whole, suites=SUITES, open_components=FailingComponents, console=quiet)
    assert (result.status, result.episodes, result.played) == ("finished", 12, 0)


def test_another_configuration_is_refused(whole, quiet):
    with pytest.raises(RunError, match=r"config\.prune\.keep = 0\.7, now it is 0\.5; --fresh"):
        run(tiny_run(samples=1, prune={"keep": 0.5}), whole, suites=SUITES, console=quiet)
    with pytest.raises(RunError, match=r"suites\.tiny\.horizon = 10, now it is 11"):
        run(tiny_run(samples=1), whole, suites={"tiny": tiny_suite(horizon=11)}, console=quiet)


def test_another_executor_is_not_another_configuration(whole, quiet):
    config = tiny_run(samples=1, executor="process", workers=2)
    assert run(config, whole, suites=SUITES, console=quiet).status == "finished"


def test_fresh_deletes_the_run_and_nothing_else(tmp_path, quiet):
    def play(**changes):
        config = tiny_run(modes=["expert"], **changes)
        return run(config, tmp_path, suites=SUITES, open_components=TinyComponents, fresh=True, console=quiet)

    play(samples=2)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.html").write_text("old")
    assert play(samples=0).played == 4
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "report.html").exists()
    assert not list((tmp_path / "samples").iterdir())
    (tmp_path / "run.json").write_text("{ torn")
    with pytest.raises(RunError, match="--fresh starts anew"):
        run(tiny_run(), tmp_path, suites=SUITES, console=quiet)
    assert play(samples=0).played == 4


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_of_something_else_is_left_alone(tmp_path, quiet, fresh):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds 'thesis.tex' but no run\.json"):
        run(tiny_run(), tmp_path, suites=SUITES, fresh=fresh, console=quiet)


def test_a_damaged_row_in_the_middle_is_told(tmp_path, quiet):
    config = tiny_run(modes=["expert"])
    run(config, tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    path = tmp_path / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{oops\n" + lines[2])
    with pytest.raises(RunError, match=r"episodes\.jsonl:2: the row is damaged"):
        run(config, tmp_path, suites=SUITES, console=quiet)


def test_two_processes_cannot_own_one_run(tmp_path, quiet):
    with owned(tmp_path), pytest.raises(RunError, match="another process is playing this run"):
        run(tiny_run(), tmp_path, suites=SUITES, console=quiet)


def test_an_unusable_folder_is_told(tmp_path, quiet):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        run(tiny_run(), tmp_path / "file", suites=SUITES, console=quiet)


def test_a_run_that_could_not_start_can_start_later(tmp_path, quiet):
    with pytest.raises(GameError, match="nothing to play with"):
        run(tiny_run(), tmp_path, suites=SUITES, open_components=FailingComponents, console=quiet)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert run(tiny_run(), tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet).played == 12


@pytest.mark.parametrize("part", ["model", "adapter", "pruner"])
def test_episodes_of_other_weights_are_not_mixed(part: str, tmp_path: Path) -> None:
    from erecap.rollout.run_folder.resume import require_same_model

    facts = {"name": "tiny", "hash": "sha256:11", "adapter": {"name": "plans", "hash": "sha256:22"}, "pruner": None}
    changed = facts | ({"hash": "sha256:33"} if part == "model" else {part: {"name": "plans", "hash": "sha256:44"}})
    require_same_model(tmp_path, facts, dict(facts))
    require_same_model(tmp_path, None, changed)  # played without a model so far
    with pytest.raises(RunError, match=rf"played with {part} .*, now it is .*; --fresh starts anew"):
        require_same_model(tmp_path, facts, changed)
