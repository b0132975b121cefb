"""Two processes that compute one model give the answers, and store the tokens, of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from erecap.cli.main import app
from erecap.config import load_run
from erecap.errors import ConfigError, ModelError
from erecap.models.splitting import check_heads
from erecap.rollout.ranks import follow_run
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import ARCHITECTURES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("split")
    for name in ARCHITECTURES:
        model(name).save_pretrained(found / name)
        byte_level().save_pretrained(found / name)
    return found


def run(folder: Path, *scenarios: str, timeout: float = 280) -> dict[str, list[dict[str, Any]]]:
    """Play scenarios; the lines that the ranks said in each, how they ended last."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.ranks", str(folder), *scenarios],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            rows.append(json.loads(line))
            if "scenario" in rows[-1]:
                found[rows[-1]["scenario"]], rows = rows, []
    assert len(found) == len(scenarios), done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All scenarios, after importing everything once."""
    return run(
        folder, "talks llama:attention gemma3:learned",
        "thirty " + " ".join(f"{name}:evicting" for name in ARCHITECTURES), "lost llama", "lost_leader llama",
        "differ llama mistral", "refusals qwen2",
    )  # fmt: skip


def test_sessions_answer_and_evict_as_in_one_process(said: dict[str, list[dict[str, Any]]]) -> None:
    *rows, ended = said["talks"]
    assert ended["codes"] == [0, 0]
    assert [(row["name"], row["way"]) for row in rows] == [
        ("llama", "attention"), ("gemma3", "learned"),
    ]  # fmt: skip
    for row in rows:
        assert row["same"] and row["evicted"] > 0 and row["engine"] == "LeadingEngine"


def test_thirty_turns_with_eviction_and_drafts(said: dict[str, list[dict[str, Any]]]) -> None:
    *rows, ended = said["thirty"]
    assert ended["codes"] == [0, 0] and [row["name"] for row in rows] == list(ARCHITECTURES)
    assert all(row["same"] and row["evicted"] > 0 and row["engine"] == "LeadingEngine" for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_thirty_turns_in_all_ways(name: str, folder: Path) -> None:
    *rows, ended = run(folder, f"thirty {name}", timeout=2900)["thirty"]
    assert ended["codes"] == [0, 0] and len(rows) == 4 and all(row["same"] for row in rows)


@pytest.mark.parametrize(("scenario", "left"), [("lost", 0), ("lost_leader", 1)])
def test_a_killed_rank_is_seen_by_the_other_before_it_answers_again(
    scenario: str, left: int, said: dict[str, list[dict[str, Any]]]
) -> None:
    *rows, ended = said[scenario]
    assert ended["codes"][left] == 1 and ended["codes"][1 - left] == -9
    (line,) = [row["error"] for row in rows if "error" in row]
    assert f"rank {left} of 2: another rank of the model is lost" in line and "\n" not in line
    # Rank 0 talks: its next call already fails. A rank that waited for the transport's half an hour would not end here.
    assert [row["answers"] for row in rows if "answers" in row] == [[]] * (scenario == "lost")


def test_ranks_that_disagree_about_the_model_say_so_in_one_line_each(said: dict[str, list[dict[str, Any]]]) -> None:
    *rows, ended = said["differ"]
    assert ended["codes"] == [1, 1] and len(rows) == 2
    for row in rows:
        assert "the ranks disagree: rank 1 has another" in row["error"] and "\n" not in row["error"]


def test_what_a_split_model_lacks_is_refused_in_one_line_and_pools_take_turns(
    said: dict[str, list[dict[str, Any]]],
) -> None:
    *rows, ended = said["refusals"]
    assert ended["codes"] == [0, 0]
    told = {row["what"]: row for row in rows}
    assert "a split model has 'same'" in told["packed"]["error"]
    assert "neither saved nor restored" in told["save"]["error"]
    assert "under torchrun" in told["device"]["error"]
    assert told["pool"]["same"]
    assert all("\n" not in row.get("error", "") for row in told.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["modes=full"], "mode full: got it under torchrun; allowed: kv: reuse or evict, without text"),
        (["modes=reuse", "executor=process", "workers=2"], "executor: got process under torchrun; allowed: serial"),
        (["modes=reuse", "layers=some"], "mode reuse: got a layer plan or a controller under torchrun"),
    ],
)
def test_runs_that_a_split_model_cannot_play_are_refused_on_every_rank(
    changes: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_run("smoke", changes)
    assert not follow_run(config)
    for rank in "01":
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=words):
            follow_run(config)


@pytest.mark.parametrize(
    "command", [["doctor"], ["bench", "replan"], ["profile", "prefill"], ["generate", "MODEL", "hi"]]
)
def test_commands_that_every_process_would_carry_out_are_refused_under_torchrun(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"erecap {command[0]}: got 3 processes of torchrun.*allowed: rollout, serve"):
        app(command, standalone_mode=False)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("llama", 2, None),
        ("llama", 3, "4 attention heads and 2 key heads cannot be split over 3 processes; allowed: 1, 2"),
        ("phi3", 4, None),  # every rank has all of its heads
    ],
)
def test_heads_decide_over_how_many_ranks_a_model_can_be_split(name: str, size: int, words: str | None) -> None:
    if words is None:
        check_heads(model(name), size)
        return
    with pytest.raises(ModelError, match=words):
        check_heads(model(name), size)
