"""Modes of parts in a run: rows, worker processes, resuming, identity, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tinyworld import TinyComponents, tiny_run, tiny_suite

from erecap.config.modes import parse_mode
from erecap.errors import RunError
from erecap.evaluation.shared_episodes import unpressed_rows
from erecap.report.load import load_run_folder
from erecap.report.page.summary import summarise
from erecap.rollout.run import run
from erecap.rollout.run_folder.identity import budget_of, identity_of
from erecap.rollout.run_folder.resume import require_same_model

SUITE = tiny_suite()
PRUNED = {"name": "pruned", "prune": "random"}
SESSION = {"name": "session", "kv": {"evict": "recency"}, "decode": {"weights": "int8"}}
MODES: list[Any] = ["full", PRUNED, SESSION, "expert"]
WEIGHTS = {"model": "aaaa", "adapter": "bbbb", "pruner": "cccc", "pruner runs/other": "dddd"}


def play(folder: Path, quiet: Console, modes: list[Any] = MODES, **changes: Any) -> Any:
    config = tiny_run(modes=modes, **changes)
    return run(config, folder, suites={"tiny": SUITE}, open_components=TinyComponents, console=quiet)


def identity(parts: dict[str, Any], **changes: Any) -> Any:
    config = tiny_run(modes=[{"name": "mine", **parts}], **changes)
    return identity_of(config, SUITE, config.mode("mine"), WEIGHTS)


def test_rows_name_them_and_say_what_they_did(tmp_path: Path, quiet: Console) -> None:
    play(tmp_path, quiet)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert {(row["mode"], row["decision"]) for row in rows} == {
        ("full", "re-read"), ("pruned", "prune"), ("session", "re-read"), ("expert", "expert"),
    }  # fmt: skip
    played = load_run_folder(tmp_path)
    assert played.modes == ["full", "pruned", "session", "expert"]
    assert [played.keeps_session(mode) for mode in (*played.modes, "erecap")] == [False, False, True, False, True]
    assert list(summarise(played)["modes"]) == played.modes


def test_worker_processes_play_them_alike(tmp_path: Path, quiet: Console, rows_of: Any) -> None:
    play(tmp_path / "serial", quiet)
    play(tmp_path / "process", quiet, executor="process", workers=2)
    assert rows_of(tmp_path / "process", sort=True) == rows_of(tmp_path / "serial", sort=True)


def test_a_run_goes_on_with_the_same_parts_only(tmp_path: Path, quiet: Console, rows_of: Any) -> None:
    play(tmp_path / "whole", quiet)
    play(tmp_path / "cut", quiet)
    for name in ("episodes.jsonl", "replans.jsonl"):
        lines = (tmp_path / "cut" / name).read_bytes().splitlines(keepends=True)
        (tmp_path / "cut" / name).write_bytes(b"".join(lines[: len(lines) // 2]))
    head = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(json.dumps({**head, "status": "interrupted"}))
    other = [*MODES[:1], {**PRUNED, "prune": "recency"}, *MODES[2:]]
    words = r'config\.compositions\.pruned\.prune = "random", now it is "recency"'
    with pytest.raises(RunError, match=words):
        play(tmp_path / "cut", quiet, other)
    assert play(tmp_path / "cut", quiet).played > 0
    assert rows_of(tmp_path / "cut", sort=True) == rows_of(tmp_path / "whole", sort=True)
    assert play(tmp_path / "cut", quiet).played == 0


def test_identity_is_that_of_the_parts() -> None:
    one = identity({"kv": "reuse"})
    config = tiny_run(modes=[{"name": "other", "kv": "reuse"}])
    assert identity_of(config, SUITE, config.mode("other"), WEIGHTS) == one  # rows have the name beside it
    others = [
        {}, {"kv": "reuse", "text": "compact"}, {"kv": {"evict": None}}, {"kv": {"evict": None, "stale_first": True}},
        {"kv": "reuse", "prune": "random"}, {"kv": "reuse", "decode": {"draft": False}},
        {"kv": "reuse", "decode": {"weights": "int4"}},
    ]  # fmt: skip
    assert len({identity(parts).config for parts in [{"kv": "reuse"}, *others]}) == 1 + len(others)
    # What is written out is the same as what is left out.
    assert identity({"kv": "reuse", "decode": {"draft": True}, "text": None, "engine": "transformers"}) == one


def test_identity_has_what_the_parts_need_of_the_run() -> None:
    assert identity({"kv": "reuse"}).config != identity({"kv": "reuse"}, decode_weights="int8").config
    own = {"kv": "reuse", "decode": {"weights": "int4"}}
    assert identity(own) == identity(own, decode_weights="int8")
    assert identity({}) == identity({}, decode_weights="int8", budget={"kv_tokens": 99}, prune={"keep": 0.5})
    assert identity({"kv": {"evict": "random"}}) != identity({"kv": {"evict": "random"}}, budget={"kv_tokens": 99})
    assert identity({"prune": "random"}) != identity({"prune": "random"}, prune={"keep": 0.5})
    assert identity({"kv": {"evict": "random"}}).pruner is None and identity({"kv": {"evict": None}}).pruner == "cccc"
    assert identity({"kv": {"evict": "runs/other"}}).pruner == "dddd"


def test_a_budget_of_the_mode_s_own_counts_instead_of_the_run_s() -> None:
    own = {"kv": {"evict": "random", "kv_tokens": 64}}
    assert identity(own) == identity(own, budget={"kv_tokens": 99})
    assert len({identity({"kv": {"evict": "random", "kv_tokens": n}}).config for n in (64, 65, "auto", None)}) == 4
    assert identity({"kv": {"evict": "random", "kv_tokens": None}}) == identity({"kv": {"evict": "random"}})
    modes = [
        {"name": name, "kv": {"evict": None, "kv_tokens": n}} for name, n in (("a", 64), ("b", "auto"), ("c", None))
    ]
    config = tiny_run(modes=["reuse", *modes], budget={"kv_tokens": 128})
    assert [budget_of(config, name) for name in config.modes] == [None, 64, "auto", 128]
    config = tiny_run(modes=["reuse", *modes], budget={"kv_ratio": 0.5})
    identities = {(SUITE.name, name): identity_of(config, SUITE, config.mode(name), WEIGHTS) for name in config.modes}
    row = {"suite": SUITE.name, "mode": "reuse", "tokens": 99, "error": None, "overflow": 0, "episode": 0}
    row |= identities[SUITE.name, "reuse"].fields()
    # 99 tokens fill a budget of 64; what a share of the chat drops is not known beforehand.
    assert [(r["mode"], r["budget"]) for r in unpressed_rows([row], config, identities)] == [("b", "auto")]


def test_presets_keep_their_identity_beside_parts() -> None:
    plain, mixed = tiny_run(modes=["full", "erecap"]), tiny_run(modes=["full", "erecap", PRUNED])
    for name in ("full", "erecap"):
        ours, theirs = (identity_of(config, SUITE, parse_mode(name), WEIGHTS) for config in (plain, mixed))
        assert ours == theirs
    assert [budget_of(mixed, name) for name in mixed.modes] == [None, "auto", None]


def test_unpruned_episodes_stand_only_for_modes_of_the_same_arithmetic() -> None:
    modes = [
        "reuse", {"name": "evicts", "kv": {"evict": "random"}}, {"name": "compacts", "kv": "reuse", "text": "compact"},
        {"name": "packed", "kv": {"evict": "random"}, "decode": {"weights": "int8"}},
        {"name": "prunes", "kv": {"evict": "random"}, "prune": "random"},
    ]  # fmt: skip
    config = tiny_run(modes=modes)
    identities = {(SUITE.name, name): identity_of(config, SUITE, config.mode(name), WEIGHTS) for name in config.modes}
    row = {"suite": SUITE.name, "mode": "reuse", "tokens": 99, "error": None, "overflow": 0, "episode": 0}
    found = unpressed_rows([row | identities[SUITE.name, "reuse"].fields()], config, identities)
    assert [row["mode"] for row in found] == ["evicts", "compacts"]


def test_a_mode_with_another_pruner_of_its_own_is_another_run(tmp_path: Path) -> None:
    facts = {"hash": "sha256:1", "pruners": {"mine": {"name": "p", "hash": "sha256:2"}}}
    require_same_model(tmp_path, facts, facts)
    with pytest.raises(
        RunError, match="episodes of mode mine were played with pruner p sha256:2, now it is p sha256:3"
    ):
        require_same_model(tmp_path, facts, {**facts, "pruners": {"mine": {"name": "p", "hash": "sha256:3"}}})
