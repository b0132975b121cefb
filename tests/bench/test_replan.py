"""The replan benchmark, end to end on a tiny model over real household text."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
from rich.console import Console

from erecap.bench.history import next_turn, wander
from erecap.bench.replan import FLOOR, ReplanBench, measure, summarise
from erecap.bench.tables import as_table, write_results
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

SMALL = ReplanBench(
    lengths=(600, 900), modes=("full", "reuse", "erecap", "attention", "prune[recency]"), new_tokens=60, plan_tokens=5,
    repetitions=2, kv_tokens=600,
)  # fmt: skip


def count(messages) -> int:  # type: ignore[no-untyped-def]
    return len(render_prompt(messages, byte_level()).input_ids)


def test_every_mode_does_the_same_work(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("alfworld")
    rows = measure(SMALL, model(), byte_level())
    assert [row["mode"] for row in rows[:12]] == [*SMALL.modes, FLOOR] * 2  # interleaved
    assert {row["plan_tokens"] for row in rows} == {5}
    for length in SMALL.lengths:
        own = {row["mode"]: row for row in rows if row["length"] == length}
        assert own["full"]["prompt_tokens"] == own["reuse"]["prompt_tokens"] == own["full"]["new_tokens"] >= length
        assert own["reuse"]["new_tokens"] == own["erecap"]["new_tokens"] < 150
        assert own[FLOOR]["prompt_tokens"] < 200
        assert own["erecap"]["kv_bytes"] < own["reuse"]["kv_bytes"]
    summary = summarise(rows)
    assert [row["n"] for row in summary] == [2] * 12
    assert [row["over_floor"] for row in summary if row["mode"] == FLOOR] == [1.0, 1.0]
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(as_table(summary))
    text = screen.export_text()
    assert "prune[recency]" in text and "…" not in text
    write_results(tmp_path / "replan.json", SMALL, summary, rows, "tiny", model())
    assert len(json.loads((tmp_path / "replan.json").read_text())["rows"]) == 24


def test_history_is_as_long_as_asked_and_the_same_again() -> None:
    pytest.importorskip("alfworld")
    first = wander(800, count, turn_tokens=80, seed=3)
    assert first == wander(800, count, turn_tokens=80, seed=3) != wander(800, count, turn_tokens=80, seed=4)
    assert 800 <= count(first) < 1200
    assert [m["role"] for m in first[:3]] == ["system", "user", "assistant"] and first[-1]["role"] == "assistant"
    assert all(a["role"] != b["role"] for a, b in pairwise(first))
    assert 60 <= count([next_turn(60, count)]) < 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": ("fast",)}, "unknown mode 'fast'"),
        ({"modes": ("expert",)}, "calls no model"),
        ({"lengths": (5000,)}, "does not fit the window of 4096"),
    ],
)
def test_what_cannot_be_measured(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(ReplanBench(**{"lengths": (100,), **changes}), model(), byte_level())
