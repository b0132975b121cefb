"""Recorded conversations as a remote planner would have been sent them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.bench.remote.bench import RemoteBench, Talk
from erecap.bench.remote.kept_facts import needed_facts, told
from erecap.cost.prices import ModelPrices
from erecap.errors import ConfigError
from tests.context.small_tokenizers import byte_level

PRICES = ModelPrices(input=1.0, cached_input=0.1, output=4.0)


def conversation(calls: int) -> Talk:
    """The mug is seen in the first exchange, and taken in the last."""
    messages = [("system", "Plan."), ("user", "Goal: take a mug\nYou are in a room.")]
    plans = []
    for number in range(calls):
        plan = f"go to shelf {number}" if number < calls - 1 else "take mug 1 from shelf 0"
        plans.append((len(messages), plan))
        seen = "a mug 1" if number == 0 else f"a plate {number}, and a fork {number}"
        messages += [("assistant", plan), ("user", f"> {plan}\nOn the shelf {number}, you see {seen}.")]
    return Talk([{"role": role, "content": content} for role, content in messages], plans)  # type: ignore[typeddict-item]


def rows(**changes) -> dict[str, dict]:  # type: ignore[no-untyped-def]
    bench = RemoteBench(budget=500, cache_block=8, cache_least=0, **changes)
    return {row["view"]: row for row in bench.measure([conversation(30)] * 2, byte_level(), PRICES)["rows"]}


def test_what_each_way_costs_and_loses() -> None:
    found = rows()
    none = found["none"]
    assert none["facts_lost"] == none["calls_without_a_fact"] == 0 and none["longest"] > 500
    assert none["cached_share"] > 0.9  # all but the newest exchange of each call
    for name in ("recency", "mask", "compact", "compact-priced"):
        assert found[name]["prompt_tokens"] < none["prompt_tokens"], name
    assert found["recency"]["within_budget"] == 1.0
    # A sliding window throws the cache away at each call; what is only appended to keeps it.
    assert found["recency"]["cached_share"] < found["compact"]["cached_share"]
    # The mug's place is the oldest observation.
    assert all(found[name]["facts_lost"] > 0 for name in ("recency", "mask"))
    for row in found.values():
        assert row["dollars"] <= row["dollars_without_cache"]


def test_a_budget_that_holds_all_changes_nothing() -> None:
    bench = RemoteBench(budget=100_000, views=("none", "recency", "mask", "compact"))
    result = bench.measure([conversation(12)], byte_level(), PRICES)
    assert result["conversations"] == 1 and result["calls"] == 12
    values = [{key: value for key, value in row.items() if key != "view"} for row in result["rows"]]
    assert all(value == values[0] for value in values)


def test_litellm_compresses_or_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    bench = RemoteBench(views=("none", "litellm"), budget=300)
    if not hasattr(litellm, "compress"):
        with pytest.raises(ConfigError, match=r"litellm: this version has no `compress`; 1\.109"):
            bench.measure([conversation(30)], byte_level(), PRICES)
        return
    none, other = bench.measure([conversation(30)], byte_level(), PRICES)["rows"]
    assert other["prompt_tokens"] != none["prompt_tokens"]


def test_facts() -> None:
    plan = "go to shelf 0\ntake mug 1 from shelf 0"
    assert needed_facts(plan) == {("shelf 0",), ("mug 1",), ("mug 1", "shelf 0")}
    apart = [{"role": "user", "content": "You see a mug 1.\nThere is a shelf 0."}]
    assert told(needed_facts(plan), apart) == {("shelf 0",), ("mug 1",)}  # type: ignore[arg-type]
    assert told(needed_facts(plan), [{"role": "system", "content": "mug 1 shelf 0"}]) == set()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": ("all",)}, "views: got all; allowed: none, recency"),
        ({"views": ()}, "got none"),
        ({"budget": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RemoteBench(**changes)


def test_no_calls() -> None:
    with pytest.raises(ConfigError, match="no conversation has a planning call"):
        RemoteBench().measure([], byte_level(), PRICES)


def test_the_command(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.training.chatworld import row, save_model, save_rows

    save_rows(tmp_path / "data", [row(number) for number in range(3)])
    model = save_model(tmp_path / "model")
    out = tmp_path / "remote.json"
    code, said, err = erecap("bench", "remote", tmp_path / "data", "--model", model, "--budget", 60, "--out", out)
    assert code == 0, err
    assert "compact-priced" in said and "3 conversations, 6 calls, at most 60 tokens; prices of gpt-4.1-mini" in said
    assert [r["view"] for r in json.loads(out.read_text())["rows"]][:2] == ["none", "recency"]
    code, said, err = erecap("bench", "remote", tmp_path / "data", "--model", model, "--prices", "gpt-0")
    assert code == 2 and err.startswith("error: prices.yaml: no prices of 'gpt-0'; listed: ")
