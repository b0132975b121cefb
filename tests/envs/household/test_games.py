"""Generated games on the engine: they load, differ, come out the same again, and the expert wins them."""

import json
import subprocess
import sys

import pytest

from erecap.envs.household.check_games import check_split, signature
from erecap.envs.household.data.gamefile import TASK_FILE, read_game
from erecap.envs.household.games.generate import generate
from erecap.envs.household.options import SPLITS, TASK_TYPES
from tests.envs.household.conftest import COUNT, SEED

pytestmark = pytest.mark.integration


def test_games_differ_within_and_between_splits(made):
    paths = [path for report in made.values() for path in report.paths]
    assert len({signature(path) for path in paths}) == len(paths) == len(SPLITS) * COUNT


def test_task_types_take_turns(made):
    for report in made.values():
        assert [read_game(path).task.type for path in report.paths] == list(TASK_TYPES[:COUNT])


def test_games_come_out_the_same_again(made, tmp_path, monkeypatch):
    # In other processes with another hash seed, two of them at once, and with another number of games asked for.
    code = (
        "from erecap.envs.household.games.generate import generate\n"
        f"for split in {SPLITS}: generate(split, {SEED}, {COUNT - 2}, workers=1 + (split == 'unseen'))"
    )
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    for report in made.values():
        for path in report.paths[: COUNT - 2]:
            copies = list(tmp_path.glob("/".join(["household", *path.parts[-5:]])))
            assert len(copies) == 1
            assert copies[0].read_bytes() == path.read_bytes()
            assert copies[0].with_name(TASK_FILE).read_bytes() == path.with_name(TASK_FILE).read_bytes()


def test_a_second_call_takes_all_from_the_cache_and_the_manifest_counts(made):
    seen = []
    report = generate("seen", SEED, COUNT, progress=lambda ready, total: seen.append((ready, total)))
    assert (report.made, seen, report.paths) == (0, [], made["seen"].paths)
    manifest = json.loads(report.manifest.read_text())
    assert len(manifest["games"]) == COUNT and manifest["dropped"] == report.dropped
    assert [game["expert_steps"] for game in manifest["games"]] == list(report.expert_steps)


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_wins_with_the_promised_steps_and_metres(split, made, play):
    env = play(split=split)
    for episode in range(COUNT):
        _, info = env.reset(options={"episode": episode})
        assert info["progress"] < 1 and not info["success"]
        expected = info["expert_steps"], info["expert_path_length"]
        assert expected[0] == made[split].expert_steps[episode]
        for command in info["expert_actions"]:
            assert command in info["skills"]
            _, reward, terminated, truncated, info = env.step(command)
            assert not info["failed"] and not truncated
        assert terminated and info["success"] and reward == 1 and info["progress"] == 1
        assert info["path_length"] == pytest.approx(expected[1])
        assert info["expert_actions"] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("split", SPLITS)
def test_a_hundred_games_of_a_split(split, monkeypatch):
    monkeypatch.setenv("ERECAP_CACHE", "")  # the check sets its own folders
    result = check_split(split, seed=0, count=100, workers=1)
    assert result["n"] == result["differ"] == result["reproduced"] == result["expert_wins"] == 100
