"""Sessions under `Budget.auto`: the unmodified model within the window, and evicting beyond it without an end."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from erecap import Budget, ReplanSession
from erecap.cost.model import DECODE_TERMS, CostModel
from erecap.engines import transformers as transformers_engine
from erecap.engines.token_bytes import bytes_per_token
from erecap.errors import BudgetError
from erecap.language_models.masked import MaskedSessions
from erecap.scheduling.rules import Scheduler
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES

NEW, WINDOW = 6, 300
MOST = WINDOW - NEW


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_engine, "CHUNK", 24)


@cache
def small(name: str = "llama") -> Any:
    return model(name, window=WINDOW)


@cache
def smallest() -> Any:
    """A model of one layer whose window holds a dozen turns."""
    config = dynamic().config.to_dict() | {"num_hidden_layers": 1, "max_position_embeddings": 700}
    made = LlamaForCausalLM(
        LlamaConfig(**config | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    ).eval()
    made.generation_config.eos_token_id = byte_level().eos_token_id
    return made


@cache
def unmovable() -> Any:
    """A model whose keys know their absolute positions."""
    tokenizer = byte_level()
    torch.manual_seed(4)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=48, word_embed_proj_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=WINDOW, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    made = OPTForCausalLM(config).eval()
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made


@cache
def dynamic() -> Any:
    """A model whose rope depends on the length of the sequence."""
    tokenizer = byte_level()
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=WINDOW, eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made


def head() -> list[dict]:
    messages = start()
    messages[1]["protect"] = [(0, 22)]
    return messages


def talk(session: ReplanSession, calls: int) -> list[Any]:
    messages, generations = head(), []
    for number in range(calls):
        generations.append(session.generate(messages, max_new_tokens=NEW))
        messages += turn(generations[-1].text, number)
        messages[-1]["protect"] = []
    return generations


def most_stored(session: ReplanSession) -> list[tuple[int, int]]:
    """A list that gets the tokens and the bytes stored after every forward call."""
    seen: list[tuple[int, int]] = []
    forward = session.engine.forward

    def watched(ids, keep, decode=False):  # type: ignore[no-untyped-def]
        rows = forward(ids, keep, decode)
        seen.append((max(session.cache.kept_lengths()), session.cache.kv_bytes()))
        return rows

    session.engine.forward = watched
    return seen


@pytest.mark.parametrize("prune", [None, PruneConfig("recency", 0.8, (3, 5))], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_within_the_window_everything_is_as_without_a_budget(name: str, prune: PruneConfig | None) -> None:
    sessions = [
        ReplanSession(model(name), byte_level(), budget=budget, prune=prune, evict_by="attention")
        for budget in (Budget.auto(), None)
    ]
    watches = [Watch(session) for session in sessions]
    automatic, plain = (talk(session, 5) for session in sessions)
    assert [a.text for a in automatic] == [p.text for p in plain]
    assert watches[0].logits.keys() == watches[1].logits.keys()
    assert all(torch.equal(watches[0].logits[place], rows) for place, rows in watches[1].logits.items())
    for ours, theirs in zip(sessions[0].cache.layers, sessions[1].cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    assert sessions[0].evicted_tokens == 0 and all(a.dropped_because is None for a in automatic)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_past_what_fits_the_answers_are_the_masked_oracles(name: str) -> None:
    each = bytes_per_token(model(name))
    session = ReplanSession(model(name), byte_level(), budget=Budget.auto(memory_bytes=160 * each))
    watch = Watch(session)
    generations = talk(session, 6)
    assert all(bool(g.usage.evicted_tokens) == (g.dropped_because is not None) for g in generations)
    assert session.evicted_tokens > 60 and watch.worst_error() <= 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_outlives_its_window(name: str) -> None:
    session = ReplanSession(small(name), byte_level(), budget=Budget.auto())
    seen = most_stored(session)
    talk(session, 10)
    assert session.outlives_window and len(session.token_ids) > 1.3 * WINDOW
    assert max(tokens for tokens, _ in seen) <= WINDOW


def test_past_the_window_it_evicts_to_three_quarters_and_goes_on() -> None:
    session = ReplanSession(smallest(), byte_level(), budget=Budget.auto())
    window = session.engine.window
    most = window - NEW
    seen = most_stored(session)
    generations = talk(session, 80)
    assert len(session.token_ids) > 4 * window and max(tokens for tokens, _ in seen) <= window
    dropped = [generation for generation in generations if generation.dropped_because]
    assert 4 < len(dropped) < 30  # three quarters are left, so that most calls need not evict
    said = f"the {most} that fit the window of {window}, less {NEW} for the answer: evicted down to {3 * most // 4}"
    assert all(said in generation.dropped_because for generation in dropped)
    assert all(bool(g.usage.evicted_tokens) == (g.dropped_because is not None) for g in generations)
    assert all(g.usage.overflow_messages == g.usage.truncated_tokens == 0 for g in generations)
    # Evicted when the next chunk would not fit, or when the answer has filled what fits; and not a token further.
    quarter = most - 3 * most // 4
    assert all(quarter - 24 < g.usage.evicted_tokens <= quarter + NEW for g in dropped)
    stored = [session.token_ids[place] for place in session.cache.stored_index().tolist()]
    assert "Goal: cool the apple 1" in session.tokenizer.decode(stored)


def test_a_message_longer_than_the_window_is_read_in_pieces() -> None:
    session = ReplanSession(small(), byte_level(), budget=Budget.auto(), prefill_chunk=4096)
    seen = most_stored(session)
    messages = [*head(), *turn("look", 1)]
    messages[-1] = {"role": "user", "content": " ".join(f"mug {n}" for n in range(300)), "protect": []}
    generation = session.generate(messages, max_new_tokens=NEW)
    assert generation.usage.prompt_tokens > 3 * WINDOW and max(tokens for tokens, _ in seen) <= WINDOW
    assert generation.dropped_because is not None


def test_the_memory_given_is_never_exceeded() -> None:
    each = bytes_per_token(model())
    session = ReplanSession(model(), byte_level(), budget=Budget.auto(memory_bytes=150 * each + 3))
    seen = most_stored(session)
    generations = talk(session, 7)
    assert session.cache.kv_bytes() == max(session.cache.kept_lengths()) * each  # the same by model and by cache
    assert 120 < max(tokens for tokens, _ in seen) <= 150 and max(size for _, size in seen) <= 150 * each
    reasons = [g.dropped_because for g in generations if g.dropped_because]
    assert reasons and all(f"the memory of {150 * each + 3:,} bytes, which holds 150" in reason for reason in reasons)


def test_memory_counts_what_pruned_layers_store() -> None:
    prune = PruneConfig("recency", 0.5, (1, 3))
    each = bytes_per_token(model())
    session = ReplanSession(model(), byte_level(), prune=prune, budget=Budget.auto(memory_bytes=150 * each))
    seen = most_stored(session)
    generations = talk(session, 8)
    assert max(size for _, size in seen) <= 150 * each
    assert max(tokens for tokens, _ in seen) > 170  # more than would fit if every layer stored every token
    assert any(g.dropped_because for g in generations)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_token_from_model_and_cache(dtype: torch.dtype) -> None:
    made = LlamaForCausalLM(dynamic().config).to(dtype).eval()
    session = ReplanSession(made, byte_level())
    session.read(start())
    each = 2 * 2 * 2 * 8 * (4 if dtype == torch.float32 else 2)  # keys and values, layers, heads, width, bytes
    assert bytes_per_token(made) == bytes_per_token(made, session.cache) == each
    assert session.cache.kv_bytes() == each * max(session.cache.kept_lengths())


def test_bad_memories_are_refused_when_the_session_is_made() -> None:
    each = bytes_per_token(model())
    with pytest.raises(ValueError, match=f"holds 15 tokens of this model, {each} bytes each; allowed: {16 * each} or"):
        ReplanSession(model(), byte_level(), budget=Budget.auto(memory_bytes=16 * each - 1))
    session = ReplanSession(model(), byte_level(), budget=Budget.auto(memory_bytes=16 * each))
    with pytest.raises(BudgetError, match="no room beside an answer of 16"):
        session.generate(head(), max_new_tokens=16)
    with pytest.raises(BudgetError, match=r"system, goal and format take \d+ tokens, and 10 fit the memory"):
        session.generate(start(), max_new_tokens=NEW)
    assert session.cache.get_seq_length() == len(session.token_ids)
    assert session.generate([{"role": "user", "content": "Go."}], max_new_tokens=2).usage.completion_tokens


def test_where_positions_cannot_be_closed_up_text_is_left_out_as_without_a_budget() -> None:
    automatic, plain = (ReplanSession(unmovable(), byte_level(), budget=budget) for budget in (Budget.auto(), None))
    assert not automatic.outlives_window and not plain.outlives_window
    ours, theirs = talk(automatic, 14), talk(plain, 14)
    assert [g.text for g in ours] == [g.text for g in theirs]
    left_out = [g for g in ours if g.usage.overflow_messages]
    assert left_out and all(g.usage.evicted_tokens == 0 for g in ours)
    assert all(
        "text was left out; nothing is evicted instead, as OPTForCausalLM has no rotary embed" in g.dropped_because
        for g in left_out
    )
    assert all(g.dropped_because and "rotary" not in g.dropped_because for g in theirs if g.usage.overflow_messages)
    own = ReplanSession(unmovable(), byte_level(), budget=Budget.auto())
    with pytest.raises(BudgetError, match="no room can be made: OPTForCausalLM has no rotary embeddings"):
        own.append([{"role": "user", "content": "mug " * 400}])


def test_appended_chats_and_plans_asked_about_go_past_the_window_too() -> None:
    session = ReplanSession(smallest(), byte_level(), budget=Budget.auto())
    session.append(head())
    for number in range(24):
        text = session.generate(max_new_tokens=NEW).text
        session.correct(f"mug {number} is gone")
        assert 0 <= session.still_valid("go to shelf 3 and look at everything there") <= 1
        session.append(turn(text, number)[1:])
    assert len(session.token_ids) > 2 * session.engine.window


def test_forks_and_saved_sessions_go_on_alike(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session = ReplanSession(smallest(), byte_level(), budget=Budget.auto())
    messages = head()
    for number in range(14):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    fork = session.fork()
    session.save(tmp_path / "saved")
    restored = ReplanSession(smallest(), byte_level(), budget=Budget.auto())
    restored.restore(tmp_path / "saved")
    answers = []
    for one in (session, fork, restored):
        mine, own = list(messages), []
        for number in range(12):
            own.append(one.generate(mine, max_new_tokens=NEW))
            mine += turn(own[-1].text, number)
        answers.append([(g.text, g.usage.evicted_tokens, g.dropped_because) for g in own])
    assert answers[0] == answers[1] == answers[2] and any(because for _, _, because in answers[0])


# Dropping earlier, where it pays --------------------------------------------------------------------------

# A call takes 100 ms, and half a millisecond for each stored token: halving 400 of them saves a third.
SLOW = CostModel(prefill=(100, 0, 0, 0.5, 0), decode=(0,) * len(DECODE_TERMS))
FAST = CostModel(prefill=(100, 0, 0, 0, 0), decode=(0,) * len(DECODE_TERMS))


def test_dropping_early_is_asked_for_and_says_what_it_saves() -> None:
    session = ReplanSession(smallest(), byte_level(), budget=Budget.auto(pays=0.2), cost=SLOW)
    generations = talk(session, 14)
    dropped = [g for g in generations if g.dropped_because]
    assert dropped and all(
        "ms, which saves" in g.dropped_because and "20% were asked for" in g.dropped_because for g in dropped
    )
    # Halving saves 20 % from 133 tokens on: 0.25 n >= 0.2 (100 + 0.5 n) has its answer at 133.3.
    assert all(g.usage.reused_tokens >= 134 for g in dropped)
    for before, after in pairwise(generations):
        stored = max(before.usage.kept_per_layer) + before.usage.completion_tokens
        assert (after.dropped_because is not None) == (stored >= 136) or 130 <= stored <= 137
    untouched = ReplanSession(smallest(), byte_level(), budget=Budget.auto(pays=0.2), cost=FAST)
    assert not any(g.dropped_because for g in talk(untouched, 14)) and untouched.evicted_tokens == 0


def test_what_is_protected_is_not_dropped_to_save_time() -> None:
    session = ReplanSession(smallest(), byte_level(), budget=Budget.auto(pays=0.05), cost=SLOW)
    messages = start()  # without claims of their own, first messages and failures are protected by rule
    for number in range(8):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
        messages[-1]["protect"] = [(0, len(messages[-1]["content"]))]
    kept = session.tokenizer.decode([session.token_ids[p] for p in session.cache.stored_index().tolist()])
    assert all(f"you see a mug {7 * number}." in kept for number in range(7))


def test_pays_needs_a_cost_model_and_a_cost_model_needs_pays() -> None:
    with pytest.raises(ValueError, match=r"pays=0\.25 needs a calibrated cost model of this model; run `erecap calib"):
        ReplanSession(smallest(), byte_level(), budget=Budget.auto(pays=0.25))
    with pytest.raises(ValueError, match="a cost model is for a budget with pays"):
        ReplanSession(smallest(), byte_level(), budget=Budget.auto(), cost=SLOW)


# Beside other levers --------------------------------------------------------------------------------------


def test_a_scheduler_drops_nothing_within_the_window_and_goes_past_it() -> None:
    def scheduled(window: int) -> ReplanSession:
        scheduler = Scheduler(SLOW, budget_tokens=None, window=window)
        return ReplanSession(smallest(), byte_level(), budget=Budget.auto(), scheduler=scheduler)

    window = smallest().config.max_position_embeddings
    session = scheduled(window)
    generations = talk(session, 40)
    assert max(session.cache.kept_lengths()) <= window and len(session.token_ids) > 2 * window
    assert all(g.decision.action == "append" for g in generations[:10]) and not generations[9].dropped_because
    dropped = [g for g in generations if g.usage.evicted_tokens]
    assert (
        all(f"evicted down to {3 * (window - NEW) // 4}" in g.dropped_because for g in dropped)
        and 2 < len(dropped) < 25
    )


def test_a_fixed_budget_says_why_it_drops() -> None:
    session = ReplanSession(smallest(), byte_level(), budget=Budget(kv_tokens=120))
    reasons = {g.dropped_because for g in talk(session, 8) if g.usage.evicted_tokens}
    assert reasons == {"more tokens were stored than the budget (kv_tokens=120) allows"}
    ratio = ReplanSession(smallest(), byte_level(), budget=Budget(kv_ratio=0.9))
    assert any("the budget (kv_ratio=0.9, " in (g.dropped_because or "") for g in talk(ratio, 8))


def test_mask_takes_the_window_for_its_budget() -> None:
    masked = MaskedSessions(small(), byte_level(), budget=Budget.auto())
    generations = []
    messages = head()
    for number in range(14):
        generations.append(masked.generate(messages, max_new_tokens=NEW))
        messages += turn(generations[-1].text, number)
    within = [g for g in generations if g.usage.prompt_tokens <= MOST]
    assert within and all(g.dropped_because is None and g.usage.dropped_messages == 0 for g in within)
    assert generations[-1].dropped_because == f"chat and answer are kept within the window of {WINDOW}"
    assert all(max(g.usage.kept_per_layer) <= MOST for g in generations)
    with pytest.raises(ValueError, match="pays"):
        MaskedSessions(small(), byte_level(), budget=Budget.auto(pays=0.2))
