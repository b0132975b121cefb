"""Bounds of a wrapped model's conversations: their number, their bytes, and the budget of each."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch

import erecap
from erecap.errors import BudgetError, ConfigError
from erecap.tokens.hooks import find_decoder
from tests.session.chats import model as wide_model
from tests.tokens.models import ARCHITECTURES, tiny
from tests.wrapping.test_session_model import GREEDY, ids_of, rows_of, whole

EVICT_BY = ("recency", "random", "attention", "scorer")


class NormScorer:
    """Ranks a token by the length of its hidden state."""

    layer = 2

    def score(self, layer: int, hidden: torch.Tensor, ctx: Any) -> torch.Tensor:
        return hidden.float().norm(dim=-1)


def evict_by(name: str) -> Any:
    return NormScorer() if name == "scorer" else name


def test_the_least_recently_used_conversation_goes_first(tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(tiny("llama"), conversations=2, log=tmp_path)
    chats = [ids_of(40, seed) for seed in (1, 2, 3)]
    for number in (0, 1, 0, 2, 0, 1):  # the third throws out the second
        wrapped.generate(**whole(chats[number]), **GREEDY)
        assert wrapped.conversations.count <= 2
    assert [row["new_tokens"] for row in rows_of(tmp_path)] == [40, 40, 1, 40, 1, 40]
    assert rows_of(tmp_path)[-1]["reason"] == "a conversation that is no longer stored: 2 newer ones are"
    wrapped.reset()
    assert wrapped.conversations == type(wrapped.conversations)(0, 0, 0)


def test_a_single_conversation_is_edited_in_place(tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(tiny("llama"), conversations=1, log=tmp_path)
    for tail in (1, 2, 3):
        wrapped.generate(**whole(torch.cat([ids_of(40, 9), ids_of(30, tail)], 1)), **GREEDY)
        assert wrapped.conversations.count == 1
    assert [row["new_tokens"] for row in rows_of(tmp_path)] == [70, 30, 30]


def test_bytes_are_bounded_over_all_conversations() -> None:
    model = tiny("llama")
    alone = erecap.wrap(model)
    alone.generate(**whole(ids_of(40, 1)), **GREEDY)
    each = alone.conversations.kv_bytes
    wrapped = erecap.wrap(model, memory_bytes=int(2.5 * each))
    for seed in range(5):
        wrapped.generate(**whole(ids_of(40, seed)), **GREEDY)
        assert wrapped.conversations.kv_bytes <= 2.5 * each
    assert wrapped.conversations.count == 2


@pytest.mark.parametrize("memory", [None, 500])
def test_the_conversation_that_is_served_is_kept_within_a_small_memory(memory: int | None, tmp_path) -> None:  # type: ignore[no-untyped-def]
    each = 2 * 8 * 2 * 8 * 4  # bytes of a token: keys and values, layers, heads, width, float32
    budget = None if memory is None else erecap.Budget.auto(memory_bytes=memory * each)
    wrapped = erecap.wrap(tiny("llama"), budget=budget, memory_bytes=100 * each, log=tmp_path)
    ids = ids_of(60, 1)
    for turn in range(8):
        ids = torch.cat([wrapped.generate(**whole(ids), **GREEDY), ids_of(20, turn)], 1)
        assert wrapped.conversations.count == 1 and wrapped.conversations.kv_bytes <= 100 * each
    rows = rows_of(tmp_path)
    assert [row["decision"] for row in rows] == ["read", *["reused"] * 7]
    assert [row["new_tokens"] for row in rows[1:]] == [21] * 7
    reasons = [row["dropped_because"] for row in rows if row["evicted"]]
    assert len(reasons) > 1 and all("pass the memory of 102,400 bytes: evicted" in reason for reason in reasons)
    wrapped.generate(**whole(ids_of(90, 7)), **GREEDY)  # another chat: the newest stays, the older one goes
    assert wrapped.conversations.count == 1
    wrapped.generate(**whole(ids), **GREEDY)
    last = rows_of(tmp_path)[-1]
    assert last["decision"] == "read" and last["reason"].startswith("a conversation that is no longer stored: with new")
    assert "than the memory of 102,400" in last["reason"]


def test_a_conversation_that_outgrows_the_memory_is_told_once_and_in_the_log(tmp_path, recwarn) -> None:  # type: ignore[no-untyped-def]
    model, each = tiny("llama"), 2 * 8 * 2 * 8 * 4
    wrapped = erecap.wrap(model, budget=erecap.Budget(), memory_bytes=30 * each, log=tmp_path)
    ids = ids_of(40, 1)
    for turn in range(3):
        output = wrapped.generate(**whole(ids), **GREEDY)
        assert torch.equal(output, model.generate(ids, **GREEDY)) and wrapped.conversations.count == 0
        ids = torch.cat([output, ids_of(20, turn)], 1)
    [warning] = [str(one.message) for one in recwarn if "erecap" in str(one.message)]
    assert warning.startswith(f"erecap.wrap stores nothing of this conversation: it takes {44 * each:,} bytes, more")
    assert "budget=erecap.Budget.auto(memory_bytes=...)" in warning
    first, *others = [row["reason"] for row in rows_of(tmp_path)]
    assert first == "a new conversation"
    assert all(why.startswith("a conversation that is no longer stored: it takes ") for why in others)
    wrapped.generate(**whole(ids_of(40, 5)), **GREEDY)
    assert rows_of(tmp_path)[-1]["reason"] == "a new conversation"  # with another beginning


def test_what_two_chats_share_is_stored_once() -> None:
    wrapped, head = erecap.wrap(tiny("llama")), ids_of(300, 1)
    for seed in (2, 3, 4):
        wrapped.generate(**whole(torch.cat([head, ids_of(20, seed)], 1)), **GREEDY)
    stored = wrapped.conversations
    each = 2 * 8 * 2 * 8 * 4  # bytes of a token: keys and values, layers, heads, width, float32
    assert stored.count == 3 and stored.stored_tokens == 3 * 324
    assert 300 * each < stored.kv_bytes < 400 * each


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_budget_that_holds_everything_changes_nothing(name: str) -> None:
    model, ids = tiny(name), ids_of(40, 1)
    wrapped = erecap.wrap(model, budget=400)
    for turn in range(8):
        expected = model.generate(**whole(ids), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
        ids = torch.cat([expected, ids_of(20, turn)], 1)


@pytest.mark.parametrize(
    ("name", "by"), [*((name, "recency") for name in ARCHITECTURES), *(("gemma3", by) for by in EVICT_BY[1:])]
)
def test_a_chat_far_beyond_the_window_stays_within_its_budget(name: str, by: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = wide_model(name, window=256)
    wrapped = erecap.wrap(model, budget=96, evict_by=evict_by(by), log=tmp_path)
    positions: list[torch.Tensor] = []

    def spy(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if kwargs["position_ids"] is not None:  # not so where the first call checks the model
            positions.append(kwargs["position_ids"].flatten())

    handle = find_decoder(model).register_forward_pre_hook(spy, with_kwargs=True)
    ids = ids_of(60, 1)
    first = ids.clone()
    for turn in range(16):
        positions.clear()
        output = wrapped.generate(**whole(ids), **GREEDY)
        assert torch.equal(output[:, : ids.shape[1]], ids) and output.shape[1] <= ids.shape[1] + 5
        [held] = wrapped.held.idle()
        assert max(held.cache.kept_lengths()) <= 96 and wrapped.conversations.stored_tokens <= 96
        seen = torch.cat(positions)
        assert torch.equal(seen, torch.arange(int(seen[0]), int(seen[0]) + len(seen))) and int(seen.max()) < 256
        ids = torch.cat([output, ids_of(30, 40 + turn)], 1)
    handle.remove()
    assert held.read > 2 * 256 and held.evicted > 256
    stored = held.cache.stored_index()
    assert stored[:24].tolist() == list(range(24))  # a quarter of the budget, of the first prompt
    assert stored[-24:].tolist() == list(range(held.read - 24, held.read))
    assert torch.equal(held.tokens[:60], first[0])
    rows = rows_of(tmp_path)
    assert sum(row["evicted"] for row in rows) == held.evicted and rows[-1]["mode"].startswith("session[")
    assert all(row["new_tokens"] <= 60 for row in rows)


@pytest.mark.parametrize("by", EVICT_BY)
def test_one_prompt_longer_than_the_window_is_read_in_chunks(by: str) -> None:
    model = wide_model("llama", window=1024)
    wrapped = erecap.wrap(model, budget=128, evict_by=evict_by(by), protect_first=7)
    widths: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    wrapped.generate(**whole(ids_of(3000, 1)), **GREEDY)
    handle.remove()
    assert max(widths) <= 512
    [held] = wrapped.held.idle()
    index = held.cache.stored_index()
    assert len(index) == 128 and index[:7].tolist() == list(range(7)) and (by != "recency" or int(index[7]) > 2800)
    if by != "recency":
        assert int(index[20]) < 2800  # others keep older tokens, too


def test_what_is_ranked_by_attention_is_what_the_newest_token_attends_to() -> None:
    model, ids = tiny("llama"), ids_of(100, 3)
    wrapped = erecap.wrap(model, budget=48, evict_by="attention", protect_first=0)
    wrapped.generate(**whole(ids), **GREEDY)
    [held] = wrapped.held.idle()
    with torch.no_grad():
        weights = tiny("llama", "eager")(ids[:, :99], output_attentions=True).attentions
    expected = torch.stack([layer[0, :, -1].sum(0) for layer in weights]).mean(0)
    chosen = [place for place in held.cache.stored_index().tolist() if 4 <= place < 92]
    assert chosen and set(chosen) <= set(expected.argsort(descending=True)[:60].tolist())


def test_going_back_to_what_was_evicted_reads_it_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(tiny("llama"), budget=64, log=tmp_path)
    ids = ids_of(300, 1)
    wrapped.generate(**whole(ids), **GREEDY)
    wrapped.generate(**whole(ids[:, :150]), **GREEDY)
    row = rows_of(tmp_path)[-1]
    assert row["new_tokens"] == 150 and "evicted" in row["reason"]


@pytest.mark.parametrize("chunk", [16, 512])
def test_rows_count_the_prompt_tokens_that_were_stored_when_it_was_read(  # type: ignore[no-untyped-def]
    chunk: int, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("erecap.wrapping.token_reader.CHUNK", chunk)
    wrapped, ids = erecap.wrap(tiny("llama"), budget=64, log=tmp_path), ids_of(50, 1)
    for turn in range(4):
        ids = torch.cat([wrapped.generate(**whole(ids), **GREEDY), ids_of(15, turn)], 1)
    kept = [row["kept_tokens"] for row in rows_of(tmp_path)]
    # 50; with 4 of its answer 54, and 16 new ones; from then on what the budget left of the call before, and new ones.
    assert kept == [50, 70, 64 + 16, 64 + 16] if chunk == 512 else kept[0] == 50 and max(kept) <= 64 + 16
    assert all(row["kept_tokens"] <= row["prompt_tokens"] for row in rows_of(tmp_path))


def test_a_budget_as_large_as_the_window_leaves_room_for_the_answer() -> None:
    wrapped = erecap.wrap(wide_model("llama", window=128), budget=120)
    output = wrapped.generate(**whole(ids_of(115, 1)), max_new_tokens=30, do_sample=False)
    [held] = wrapped.held.idle()
    assert output.shape[1] > 115 and held.evicted and held.next_position <= 128 and held.stored <= 120


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_budget_nothing_is_dropped_within_the_window(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = wide_model(name, window=256)
    wrapped, ids = erecap.wrap(model, log=tmp_path), ids_of(40, 1)
    for turn in range(12):
        output = wrapped.generate(**whole(ids), **GREEDY)
        [held] = wrapped.held.idle()
        assert held.next_position <= 256 and held.stored <= 256
        if ids.shape[1] + 5 <= 256:
            assert held.evicted == 0 and torch.equal(output, model.generate(**whole(ids), **GREEDY))
        ids = torch.cat([output, ids_of(30, 40 + turn)], 1)
    assert held.read > 400 and held.evicted and rows_of(tmp_path)[-1]["mode"] == "session"
    unbounded = erecap.wrap(model, budget=erecap.Budget())
    assert torch.equal(unbounded.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))


def test_memory_of_each_conversation() -> None:
    model = tiny("llama")
    each = 2 * 8 * 2 * 8 * 4  # bytes of a token: keys and values, layers, heads, width, float32
    wrapped, ids = erecap.wrap(model, budget=erecap.Budget.auto(memory_bytes=100 * each)), ids_of(60, 1)
    for turn in range(6):
        ids = torch.cat([wrapped.generate(**whole(ids), **GREEDY), ids_of(20, turn)], 1)
        assert wrapped.conversations.kv_bytes <= 100 * each
    assert wrapped.held.idle()[0].evicted


@pytest.mark.parametrize("name", ["llama", "gemma3"])  # gemma3: heads wider than hidden size by heads
def test_a_memory_of_a_conversation_counts_bytes_of_this_model(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny(name)
    each = 2 * 8 * 2 * (16 if name == "gemma3" else 8) * 4
    for few in (5, 16 * each - 1):
        message = f"^budget: memory_bytes={few} holds {few // each} tokens of this model, {each} bytes each; allowed: "
        with pytest.raises(ConfigError, match=f"{message}{16 * each} or more$"):
            erecap.wrap(model, budget=erecap.Budget.auto(few), log=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for by in EVICT_BY:
        wrapped = erecap.wrap(model, budget=erecap.Budget.auto(16 * each), evict_by=evict_by(by))
        for length in (9, 40, 90, 300):
            assert wrapped.generate(**whole(ids_of(length, 1)), **GREEDY).shape[1] == length + 5
            assert 0 < wrapped.conversations.kv_bytes <= 16 * each
        with pytest.raises(
            BudgetError, match=f"memory_bytes={16 * each} holds 16 tokens, too few beside an answer of 60;"
        ):
            wrapped.generate(**whole(ids_of(30, 2)), max_new_tokens=60)


@pytest.mark.parametrize(
    ("budget", "because"),
    [
        (96, r"^\d+ stored tokens pass the budget \(kv_tokens=96\): evicted down to 96$"),
        (250, r"pass (the window of 256: evicted down to \d+|the budget \(kv_tokens=250\): evicted down to 250)$"),
        (erecap.Budget(kv_ratio=0.5), r"^\d+ stored tokens pass the budget \(kv_ratio=0.5, \d+ tokens\)"),
        (None, r"^\d+ stored tokens and \d+ to come pass the window of 256: evicted down to \d+$"),
        (erecap.Budget.auto(100 * 1024), r"pass the memory of 102,400 bytes: evicted down to \d+$"),
        (erecap.Budget.auto(10**9), r"pass the window of 256: evicted"),
        (erecap.Budget(), "nothing goes"),
    ],
)
def test_every_eviction_says_why(budget: Any, because: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(wide_model("llama", window=256), budget=budget, log=tmp_path)
    ids = ids_of(60, 1)
    for turn in range(14):
        ids = torch.cat([wrapped.generate(**whole(ids), **GREEDY), ids_of(20, turn)], 1)
    wrapped.generate(**whole(ids), **GREEDY, use_cache=False)
    rows = rows_of(tmp_path)
    assert all(bool(row.get("evicted")) == (row["dropped_because"] is not None) for row in rows)
    reasons = [row["dropped_because"] for row in rows if row["dropped_because"]]
    assert all(re.search(because, reason) for reason in reasons)
    assert bool(reasons) == (budget != erecap.Budget()) and rows[-1]["dropped_because"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 3}, "kv_tokens must be 16"),
        ({"budget": 64, "evict_by": "saliency"}, "allowed: recency"),
        ({"budget": 64, "protect_first": 40}, "half of the budget"),
        ({"budget": erecap.Budget.auto(pays=0.2)}, "calibrated cost model"),
        ({"budget": "1024"}, "budget: got '1024'; allowed: a number of tokens, 'auto', or a Budget$"),
        ({"budget": 64.0}, "budget: got 64.0; allowed: "),
        ({"budget": True}, "budget: got True; allowed: "),
        ({"budget": 64, "protect_first": "x"}, "protect_first must be a whole number of tokens, got 'x'"),
        ({"conversations": "x"}, "conversations, memory_bytes: got 'x', None; allowed: "),
        ({"memory_bytes": "1 GB"}, "conversations, memory_bytes: got 8, '1 GB'; allowed: "),
        ({"conversations": 0}, "from 1 on"),
        ({"memory_bytes": 0}, "from 1 on"),
        ({"budget": 64, "keep": 0.5}, "give either"),
        ({"memory_bytes": 5}, "^memory_bytes=5 holds 0 tokens of this model, 1024 bytes each; allowed: 16384 or more$"),
        ({"memory_bytes": 20_480, "budget": 64}, "holds 20 tokens of this model, fewer than the budget of 64"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        erecap.wrap(tiny("llama"), **options)


def test_a_budget_by_its_name() -> None:
    wrapped = erecap.wrap(wide_model("llama", window=128), budget="auto")
    wrapped.generate(**whole(ids_of(100, 1)), **GREEDY)
    [held] = wrapped.held.idle()
    assert held.evicted == 0
    wrapped.generate(**whole(ids_of(200, 1)), **GREEDY)
    assert wrapped.held.idle()[-1].evicted and copy.copy(wrapped).held.most == wrapped.held.most


def test_callables_have_no_budget_of_keys_and_values() -> None:
    with pytest.raises(ConfigError, match="budget, conversations: for models"):
        erecap.wrap(lambda messages: "x", budget=64, conversations=3)


def test_a_report_takes_the_log(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from erecap.report import build

    wrapped = erecap.wrap(tiny("llama"), log=tmp_path / "mine")
    for length in (30, 50):
        wrapped.generate(**whole(ids_of(length, 1)), **GREEDY)
    assert "50" in build(tmp_path / "mine").read_text("utf-8")
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["wrapped"] == "model"
