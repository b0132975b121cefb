"""Many agents on one device, at a tiny size on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from erecap.bench.fleet import FleetBench, fleet_bench, random_model, talk
from erecap.cli.main import app
from erecap.context.tokenize import render_prompt
from erecap.cost.fleet.gpu import GPUS, Served, fitted
from erecap.cost.flops import ModelShape
from tests.context.small_tokenizers import byte_level

SHAPE = ModelShape(2, 32, 48, 4, 2, 8, len(byte_level()))
SIZES = {"history": 400, "kept": 200, "agents": (1, 2), "new_tokens": 40, "plan_tokens": 3, "repetitions": 1}


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    return random_model(SHAPE, 2048, "cpu", torch.float32)


def test_a_head_may_be_the_embeddings() -> None:
    untied, tied = (random_model(SHAPE, 64, "cpu", torch.float32, tied=tied).num_parameters() for tied in (False, True))
    assert untied - tied == SHAPE.vocab_size * SHAPE.hidden_size


def test_every_way_with_one_agent_and_with_several(model) -> None:  # type: ignore[no-untyped-def]
    found = fleet_bench(FleetBench(**SIZES), model, byte_level())
    at = {(row["way"], row["agents"]): row for row in found["summary"]}
    assert list(at) == [(way, agents) for agents in (1, 2) for way in ("200", "reuse", "full")]
    assert all(row["n"] == 1 for row in at.values()) and found["left_out"] == []
    for agents in (1, 2):
        kept, reuse, full = (at[way, agents] for way in ("200", "reuse", "full"))
        assert kept["stored_tokens"] <= 200 < 400 < reuse["stored_tokens"]
        assert 40 <= kept["new_tokens"] < 120 and reuse["new_tokens"] == kept["new_tokens"]
        assert full["new_tokens"] > 400
        served = Served(SHAPE, weight_bytes_each=4, kv_bytes_each=4)
        assert kept["kv_bytes"] == kept["stored_tokens"] * served.bytes_per_token
    assert found["memory"]["weight_bytes"] > 0 and at["200", 1]["fit"] is None
    assert [entry["agents"] for entry in found["fit"]["decode"]] == [1, 2] and found["fit"]["read_tokens"] > 400


def test_what_the_time_does_not_suffice_for_is_said(model) -> None:  # type: ignore[no-untyped-def]
    found = fleet_bench(FleetBench(**{**SIZES, "minutes": 1e-9}), model, byte_level())
    assert found["summary"] == [] and found["fit"] is None
    assert {row["reason"] for row in found["left_out"]} == {"no time was left"} and len(found["left_out"]) == 6


def test_what_the_memory_does_not_suffice_for_is_said(model, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from erecap.session.pool.pool import ReplanPool

    generate = ReplanPool.generate

    def small(pool: ReplanPool, calls: list) -> list:
        if len(calls) > 1:
            raise torch.OutOfMemoryError("no more")
        return generate(pool, calls)

    monkeypatch.setattr(ReplanPool, "generate", small)
    found = fleet_bench(FleetBench(**{**SIZES, "history": 100, "kept": 150}), model, byte_level())
    assert {row["agents"] for row in found["summary"]} == {1}
    assert [row["reason"] for row in found["left_out"]] == ["out of memory"] * 3


def test_chats_and_windows(model) -> None:  # type: ignore[no-untyped-def]
    def count(messages) -> int:  # type: ignore[no-untyped-def]
        return len(render_prompt(messages, byte_level()).input_ids)

    chat = talk(300, count, seed=1, turn_tokens=40)
    assert 300 <= count(chat) < 600 and chat == talk(300, count, 1, 40) != talk(300, count, 2, 40)
    assert [message["role"] for message in chat[1:]] == ["user", "assistant"] * (len(chat) // 2)
    with pytest.raises(ValueError, match="needs a window of"):
        fleet_bench(FleetBench(**{**SIZES, "history": 4000}), model, byte_level())
    with pytest.raises(ValueError, match="plan_tokens from 2"):
        FleetBench(plan_tokens=1)


def test_the_command(tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "config.json").write_text("{}")
    out = tmp_path / "fleet.json"
    options = ["--history", "300", "--kept", "200", "--agents", "1,2", "--plan-tokens", "2", "--repetitions", "1"]
    done = CliRunner().invoke(
        app, ["bench", "fleet", *options, "--device", "cpu", "--tokenizer", str(tmp_path / "words"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output + str(done.exception)
    content = json.loads(out.read_text())
    assert content["model"]["layers"] == 2 and len(content["summary"]) == 6
    try:
        fitted(GPUS["l4"], Served(SHAPE), content["fit"])
    except ValueError as error:  # at this size nothing but noise may be measured
        assert "two passes are needed" in str(error)
    failed = CliRunner().invoke(app, ["bench", "fleet", "--shape", "9b"])
    assert "--shape: got '9b'" in str(failed.exception)
