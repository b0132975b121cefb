"""The replan benchmark, end to end on a tiny model over real household text."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from erecap.bench.replan.calls import answer, floor_message, product_call
from erecap.bench.replan.history import Walk, cut, next_turn, wander
from erecap.bench.replan.replan import measure, replan_bench
from erecap.bench.replan.settings import FLOOR, ReplanBench
from erecap.bench.replan.summary import ceilings, summarise
from erecap.bench.tables import ceiling_table, replan_table
from erecap.config.modes import Mode
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

SMALL = ReplanBench(
    lengths=(600, 900),
    modes=("full", "reuse", "erecap", "prune[recency]"),
    rows=("algorithm", "product", "hf"),
    new_tokens=60,
    plan_tokens=5,
    repetitions=2,
    kv_tokens=600,
    decode_weights="same",
    stock_lengths=(900,),
)


def count(messages) -> int:  # type: ignore[no-untyped-def]
    return len(render_prompt(messages, byte_level()).input_ids)


def shown(table) -> str:  # type: ignore[no-untyped-def]
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(table)
    return screen.export_text()


def test_every_mode_does_the_same_work() -> None:
    pytest.importorskip("alfworld")
    found = replan_bench(SMALL, model(), byte_level())
    raw = found["raw"]
    plain = [("algorithm", mode) for mode in (*SMALL.modes, FLOOR)]
    product = [("product", mode) for mode in ("full", "reuse", "erecap", FLOOR)]
    order = [(row["row"], row["mode"]) for row in raw]
    assert order == [*plain, *product] * 2 + [*plain, *product, ("hf", "hf")] * 2  # interleaved
    assert {row["plan_tokens"] for row in raw} == {5}
    for length in SMALL.lengths:
        for row in ("algorithm", "product"):
            own = {r["mode"]: r for r in raw if r["length"] == length and r["row"] == row}
            assert own["full"]["prompt_tokens"] == own["reuse"]["prompt_tokens"] == own["full"]["new_tokens"] >= length
            assert own["reuse"]["new_tokens"] == own["erecap"]["new_tokens"] < 150
            assert 0 <= own["erecap"]["new_tokens"] - own[FLOOR]["new_tokens"] < 8  # the floor reads no more
            assert own["erecap"]["kv_bytes"] < own["reuse"]["kv_bytes"]
            assert all(r["passes"] == 4 - r["accepted_tokens"] for r in own.values())
            drafted = sum(r["drafted_tokens"] for r in own.values())
            assert drafted == 0 if row == "algorithm" else drafted > 0
    stock = next(row for row in raw if row["row"] == "hf")
    assert stock["prompt_tokens"] == own["full"]["prompt_tokens"] and stock["prefill_ms"] is None
    summary = summarise(raw)
    assert [entry["n"] for entry in summary] == [2] * 19
    assert all(entry["over_floor"] == 1.0 for entry in summary if entry["mode"] == FLOOR)
    text = shown(replan_table(summary, "algorithm"))
    assert "hf" not in text and "hf" in shown(replan_table(summary, "hf"))
    assert "prune[recency]" in text and "…" not in text
    bounds = ceilings(raw, found["shape"], found["attention_shares"])
    assert [(entry["length"], entry["mode"]) for entry in bounds] == [(600, "prune[recency]"), (900, "prune[recency]")]
    assert all(
        1 < entry["flop_ceiling"] < 3 and 0 < found["attention_shares"][str(entry["length"])] < 1 for entry in bounds
    )
    assert "FLOP ceiling" in shown(ceiling_table(bounds))
    assert found["quality"]["agreement"] == 1.0 and abs(found["quality"]["difference"]) < 1e-5
    assert found["quality"]["n"] > 50


def test_the_product_row_of_full_gives_the_plan_of_full() -> None:
    pytest.importorskip("alfworld")
    history = cut(wander(900, count, turn_tokens=80, seed=3), 700, count)
    new = next_turn(60, count)
    bench = replace(SMALL, plan_tokens=24)
    ours = product_call(Mode("full"), bench, model(), byte_level(), history, new)()
    bare = TransformersLanguageModel(model(), byte_level())
    plain = bare.generate([*history, new], max_new_tokens=24, min_new_tokens=24)
    assert ours.text == plain.text and ours.usage.prompt_tokens == plain.usage.prompt_tokens
    assert ours.usage.new_tokens == plain.usage.new_tokens and ours.usage.reused_tokens == 0


def test_the_floor_reads_what_is_new_and_nothing_else() -> None:
    pytest.importorskip("alfworld")
    history, new = wander(400, count, turn_tokens=80), next_turn(60, count)
    session = ReplanSession(model(), byte_level(), draft=False)
    session.read(history)
    wanted = answer(session, [*history, new], 2).usage.new_tokens
    alone = floor_message(byte_level(), history, new, count)
    assert 0 <= wanted - count([alone]) < 8 and new["content"].startswith(alone["content"])


def test_history_is_as_long_as_asked_and_the_same_again() -> None:
    pytest.importorskip("alfworld")
    first = wander(800, count, turn_tokens=80, seed=3)
    assert first == wander(800, count, turn_tokens=80, seed=3) != wander(800, count, turn_tokens=80, seed=4)
    assert 800 <= count(first) < 1200
    assert [m["role"] for m in first[:3]] == ["system", "user", "assistant"] and first[-1]["role"] == "assistant"
    assert all(a["role"] != b["role"] for a, b in pairwise(first))
    assert 60 <= count([next_turn(60, count)]) < 100
    part = cut(first, 500, count)
    assert part == first[: len(part)] and part[-1]["role"] == "assistant"
    assert count(part) >= 500 > count(part[:-2])
    assert cut(first, 10**6, count) == first


def test_the_world_answers_to_plans() -> None:
    pytest.importorskip("alfworld")
    with Walk(0) as walk:
        walk.start()
        plan = walk.turn(1, count)[0]["content"]
        said = walk.follow(f"{plan}\n\ndance on the roof")["content"]
        assert f"> {plan}" in said and "> dance on the roof" in said
        assert walk.follow("\n")["content"] == "No step was taken."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": ("fast",)}, "unknown mode 'fast'"),
        ({"modes": ("expert",)}, "calls no model"),
        ({"modes": ("full", "served")}, "mode served calls no model"),
        ({"lengths": (5000,)}, "does not fit the window of 4096"),
        ({"rows": ("best",)}, "unknown row best; allowed: algorithm, product, hf"),
        ({"rows": ("product",), "decode_weights": "int2"}, "unknown decode weights 'int2'; allowed: same, int8, int4"),
    ],
)
def test_what_cannot_be_measured(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(ReplanBench(**{"lengths": (100,), **changes}), model(), byte_level())
