"""A collection that was killed goes on, and ends with the bytes of one that was left alone.

As a program it collects: python tests/training/test_collect_resume.py FOLDER WORKERS
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from tinyworld import ENTRY, FailingComponents, TinyComponents, tiny_run, tiny_suite

from erecap.envs import ENVIRONMENTS
from erecap.errors import ConfigError, GameError, RunError
from erecap.training.collect.collect import collect
from erecap.training.collect.episode import Recipe
from erecap.training.collect.trajectories import read_meta

EPISODES = 12
SUITE = tiny_suite(disturbances={"slip": 0.3})


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


class SlowComponents(TinyComponents):
    """Takes its time to open each episode, so that there are moments to be killed in."""

    def env(self, suite, *, expert):
        time.sleep(self.delay)
        return super().env(suite, expert=expert)


def gather(out, *, suite=SUITE, components=SlowComponents, workers=1, fresh=False, **recipe):
    recipe = Recipe.model_validate({"episodes": EPISODES, "perturb": 0.5, **recipe})
    quiet = Console(file=io.StringIO(), width=200)
    suites = {suite.name: suite}
    return collect(recipe, suites, out, workers=workers, fresh=fresh, open_components=components, console=quiet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    gather(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    for name in ("meta.json", "episodes.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def content(folder):
    return (folder / "episodes.jsonl").read_bytes()


def start(folder, workers, delay):
    environment = {**os.environ, "TINY_DELAY": str(delay), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), str(workers)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for_rows(folder, program, size):
    deadline = time.monotonic() + 60
    path = folder / "episodes.jsonl"
    while not (path.exists() and path.stat().st_size >= size) and program.poll() is None:
        assert time.monotonic() < deadline, "no row was written"
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGINT, 2)])
def test_killed_and_gone_on(whole, tmp_path, number, workers):
    program = start(tmp_path, workers, delay=0.1)
    wait_for_rows(tmp_path, program, 1)
    time.sleep(0.15)
    os.killpg(program.pid, number)
    assert program.wait(30) == (130 if number == signal.SIGINT else -number)
    assert 0 < len(content(tmp_path)) < len(content(whole))
    assert content(whole).startswith(content(tmp_path)[: content(tmp_path).rfind(b"\n") + 1])
    assert read_meta(tmp_path)["status"] == ("interrupted" if number == signal.SIGINT else "running")
    result = gather(tmp_path)
    assert 0 < result.played < EPISODES and result.rows == EPISODES
    assert content(tmp_path) == content(whole)
    # The revision may have moved on in between where tests are run in a checkout that is being worked on.
    assert {**read_meta(tmp_path), "revision": None} == {**read_meta(whole), "revision": None}


@pytest.mark.parametrize("seed", range(8))
def test_cut_at_any_byte(whole, copy, seed):
    cut = random.Random(seed).randrange(len(content(whole)))
    (copy / "episodes.jsonl").write_bytes(content(whole)[:cut])
    (copy / "meta.json").write_text(json.dumps({**read_meta(copy), "status": "running", "counts": {}}))
    result = gather(copy)
    assert result.played == EPISODES - content(whole)[:cut].count(b"\n")
    assert content(copy) == content(whole)
    assert read_meta(copy)["counts"] == read_meta(whole)["counts"]


def test_a_finished_collection_loads_nothing(copy):
    result = gather(copy, components=FailingComponents)
    assert (result.status, result.rows, result.played) == ("finished", EPISODES, 0)
    assert result.tally.counts() == read_meta(copy)["counts"]


def test_more_episodes_may_follow(whole, copy):
    assert gather(copy, episodes=EPISODES + 3).played == 3
    assert content(copy).startswith(content(whole)) and read_meta(copy)["counts"]["episodes"] == EPISODES + 3
    with pytest.raises(RunError, match=r"episodes\.jsonl:13: holds episode 12 of tiny, where no row is due"):
        gather(copy)


def test_other_settings_are_refused(whole, copy):
    with pytest.raises(RunError, match=r"config\.perturb = 0\.5, now it is 0\.25; --fresh starts anew") as error:
        gather(copy, perturb=0.25)
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=r"config\.seed = 0, now it is 1"):
        gather(copy, seed=1)
    with pytest.raises(RunError, match=r"suites\.tiny\.horizon = 10, now it is 11"):
        gather(copy, suite=tiny_suite(disturbances={"slip": 0.3}, horizon=11))
    with pytest.raises(RunError, match=r"config\.planner.* = null, now it is"):
        recipe = Recipe(episodes=EPISODES, perturb=0.0)
        meta = {**read_meta(copy), "options": {**read_meta(copy)["options"], "perturb": 0.0}}
        (copy / "meta.json").write_text(json.dumps(meta))
        collect(recipe, {"tiny": SUITE}, copy, planner=tiny_run(), open_components=TinyComponents)
    assert content(copy) == content(whole)
    assert gather(copy, perturb=0.0, fresh=True).played == EPISODES


def test_damaged_rows_are_told(copy):
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_bytes(b"".join([lines[0], b"{oops\n", *lines[2:]]))
    with pytest.raises(ConfigError, match=r"episodes\.jsonl:2: the row is damaged"):
        gather(copy)
    (copy / "episodes.jsonl").write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(RunError, match=r"episodes\.jsonl:2: holds episode 2 of tiny, where episode 1 of tiny is due"):
        gather(copy)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_of_something_else_is_left_alone(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds 'thesis.tex' but no meta\.json; choose another --out"):
        gather(tmp_path, fresh=fresh)
    (tmp_path / "meta.json").write_text('{"format": "another"}')
    with pytest.raises((RunError, ConfigError)):
        gather(tmp_path, fresh=fresh)
    assert (tmp_path / "thesis.tex").exists() and (tmp_path / "meta.json").exists()


def test_a_collection_that_could_not_start_can_start_later(tmp_path):
    with pytest.raises(GameError, match="nothing to play with"):
        gather(tmp_path, components=FailingComponents)
    assert read_meta(tmp_path)["status"] == "interrupted"
    assert gather(tmp_path).played == EPISODES


if __name__ == "__main__":
    ENVIRONMENTS["tiny"] = ENTRY
    raise SystemExit(0 if gather(Path(sys.argv[1]), workers=int(sys.argv[2])).status == "finished" else 130)
