"""Sessions under a budget: exact in every layer, protected text stays, and the answer is the masked oracle's."""

from __future__ import annotations

import numpy as np
import pytest

from erecap.budget import Budget
from erecap.engines import transformers as transformers_engine
from erecap.errors import BudgetError
from erecap.registries import EVICT_BY
from erecap.session import ReplanSession
from erecap.session.conversation.marks import answer_starts
from erecap.session.conversation.transcript import Mark
from erecap.session.eviction import HEAD, NEWEST, OPEN, PROTECTED, STALE, priorities, staying
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES

NEW = 6


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_engine, "CHUNK", 24)


@pytest.mark.parametrize("evict_by", EVICT_BY)
@pytest.mark.parametrize("prune", [None, PruneConfig("recency", 0.8, (3, 5))], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_turn_equals_the_masked_oracle_within_the_budget(name: str, prune, evict_by: str) -> None:  # type: ignore[no-untyped-def]
    session = ReplanSession(model(name), byte_level(), prune=prune, budget=Budget(kv_tokens=120), evict_by=evict_by)
    watch = Watch(session)
    messages = start()
    for number in range(5):
        generation = session.generate(messages, max_new_tokens=NEW)
        assert max(session.cache.kept_lengths()) <= 120
        messages += turn(generation.text, number)
    assert session.cache.kept_lengths()[0] == 120 and generation.usage.evicted_tokens > 0
    assert watch.worst_error() <= 1e-4


def test_during_a_call_storage_stays_within_budget_chunk_and_answer() -> None:
    session = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=100))
    most = 0
    forward = session.engine.forward

    def watched(ids, keep, decode=False):  # type: ignore[no-untyped-def]
        nonlocal most
        rows = forward(ids, keep, decode)
        most = max(most, *session.cache.kept_lengths())
        return rows

    session.engine.forward = watched
    messages = start()
    messages[1]["protect"] = [(0, 22)]
    messages += turn("look", 1)
    messages[-1]["content"] = " ".join(f"mug {n}" for n in range(200))
    messages[-1]["protect"] = []
    session.generate(messages, max_new_tokens=NEW)
    assert 100 < most <= 100 + 24 + NEW and session.cache.kept_lengths() == [100] * 8


def test_system_and_goal_beyond_the_budget() -> None:
    session = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=20))
    with pytest.raises(BudgetError, match="kv_tokens=20"):
        session.generate(start(), max_new_tokens=NEW)
    # Consistent, and usable with what fits.
    assert session.cache.get_seq_length() == len(session.token_ids)
    small = [{"role": "user", "content": "Go."}]
    session.generate(small, max_new_tokens=2)
    assert max(session.cache.kept_lengths()) <= 20


def test_a_newest_message_beyond_the_budget_keeps_its_ends() -> None:
    session = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=90))
    messages = [*start(), *turn("look", 1)]
    messages[1]["protect"] = [(0, 22)]
    messages[-1]["content"] = " ".join(f"mug {n}" for n in range(60))
    session.generate(messages, max_new_tokens=2)
    mark = next(mark for mark in session.conversation.transcript.marks if mark.message == 3)
    own = [i - mark.first for i in session.cache.layout(0).index[0].tolist() if mark.first <= i < mark.tokens]
    size = mark.tokens - mark.first
    assert {0, 1, size - 1, size - 2} <= set(own) and size // 2 not in own


def test_priorities() -> None:
    messages = [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "goal and more"},
        {"role": "user", "content": "old", "stale": [(0, 3)]},
        {"role": "user", "content": "open failure"},
        {"role": "user", "content": "newest"},
    ]
    marks = [Mark(n, 0, b"", n * 4 + 4, True, n * 4, (0, 1, 2, 3)) for n in range(5)]
    spans = [(0, 0, 2), (1, 0, 2), (3, 0, 4), (4, 0, 6)]
    found = priorities(np.arange(20), marks, messages, spans, sinks=1)
    assert found.tolist() == (
        [HEAD] * 2 + [OPEN] * 2 + [HEAD] * 2 + [OPEN] * 2 + [STALE] * 3 + [OPEN] + [PROTECTED] * 4 + [NEWEST] * 4
    )


def test_priority_decides_first_then_the_score_then_which_is_newer() -> None:
    priority = np.array([HEAD, STALE, OPEN, OPEN, OPEN, OPEN, STALE, PROTECTED])
    scores = np.array([0.0, 9, 1, 5, 1, 1, 9, 0])
    for budget, expected in [(2, {0, 7}), (3, {0, 7, 3}), (5, {0, 7, 3, 5, 4}), (7, {0, 7, 3, 5, 4, 2, 6})]:
        assert set(np.flatnonzero(staying(priority, scores, budget)).tolist()) == expected
    with pytest.raises(BudgetError):
        staying(np.full(8, HEAD), scores, 5)


@pytest.mark.parametrize("bad", [{"kv_tokens": 3}, {"kv_ratio": 0.0}, {"kv_ratio": 1.5}])
def test_bad_budgets(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Budget(**bad)


def test_what_is_limited() -> None:
    assert not Budget().limited and Budget(kv_tokens=16).limited and Budget(kv_ratio=1.0).limited


def test_the_smaller_limit_counts() -> None:
    assert Budget().tokens(1000) is None
    assert Budget(kv_tokens=100, kv_ratio=0.35).tokens(200) == 70
    assert Budget(kv_tokens=100, kv_ratio=0.35).tokens(2000) == 100


def test_an_answer_of_the_session_goes_first_when_it_is_stale_and_stays_when_it_is_protected() -> None:
    def stored_places(claim: str) -> tuple[set[int], range]:
        session = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=90), stale_first=True)
        messages = start()
        first = session.generate(messages, max_new_tokens=8).text
        begin = session.conversation.transcript.marks[-1].first
        answer = range(begin, session.conversation.transcript.marks[-1].tokens)
        for number in range(4):
            messages += turn(first if number == 0 else "look", number)
            if number == 0:
                messages[2] = {**messages[2], claim: [(0, len(first))]}
            session.generate(messages, max_new_tokens=1)
        assert max(session.cache.kept_lengths()) <= 90
        return set(session.cache.stored_index().tolist()), answer

    stored, answer = stored_places("stale")
    assert len(answer) > 2 and not stored & set(answer)
    stored, answer = stored_places("protect")
    assert stored >= set(answer)


def test_characters_of_an_answer_in_other_tokens_than_its_own() -> None:
    tokenizer = byte_level()
    text = "go to shelf 3\nlook"
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = answer_starts(tokenizer, own, text)
    assert starts[0] == 0 and len(starts) == len(own) and list(starts) == sorted(starts)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in "look"]
    assert answer_starts(tokenizer, letters, "look") == (0, 1, 2, 3)
