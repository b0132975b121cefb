"""Ways to draft in sessions: the plain answers, with eviction, forks, edits and interrupts; whom a memory reaches."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.budget import Budget
from erecap.cost.model import CostModel
from erecap.decoding.drafts.texts import DraftMemory
from erecap.registries import DRAFTS, SHARED_DRAFTS
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

NEW = 10
OLD_PLAN = "go to shelf 1\ngo to shelf 2"


def session(draft: bool | str, name: str = "llama", **options: Any) -> ReplanSession:
    shared = {"draft_memory": DraftMemory()} if draft in SHARED_DRAFTS else {}
    return ReplanSession(model(name), byte_level(), draft=draft, **shared, **options)


def told(calls: list) -> list[tuple]:
    return [(call.text, call.finish_reason, call.usage.completion_tokens) for call in calls]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("budget", [None, 90])
def test_no_way_to_draft_changes_an_answer(name: str, budget: int | None) -> None:
    sessions = {way: session(way, name, budget=budget and Budget(budget)) for way in (False, True, *DRAFTS)}
    messages, drafted = start(), dict.fromkeys(sessions, 0)
    for number in range(6):
        calls = {}
        for way, one in sessions.items():
            if number == 3:
                one.evict((30, 40))
            if number == 4:
                one = sessions[way] = one.fork()
            more = {} if number % 2 else {"temperature": 0.8, "seed": number}
            old_plan = OLD_PLAN if number == 2 else None
            calls[way] = one.generate(messages, max_new_tokens=NEW, draft="look\nlook", old_plan=old_plan, **more)
            drafted[way] += calls[way].usage.drafted_tokens
        assert len(set(told(list(calls.values())))) == 1, number
        messages += turn(calls[False].text, number)
    assert drafted.pop(False) == 0 and all(drafted.values())
    stored = [one.engine.stored().indices.tolist() for one in sessions.values()]
    assert all(indices == stored[0] for indices in stored)


def test_a_fork_and_its_origin_draft_from_texts_of_their_own() -> None:
    one, messages = session(True), start()
    one.read(messages)
    alone = session(True)
    alone.read(messages)
    fork = one.fork()
    other = [*messages, {"role": "assistant", "content": OLD_PLAN}, {"role": "user", "content": "No. " * 30}]
    fork.generate(other, max_new_tokens=NEW)
    answers = [of.generate(messages, max_new_tokens=30) for of in (one, alone)]
    # Counts as those of a session that was never forked.
    assert answers[0].text == answers[1].text
    assert answers[0].usage.drafted_tokens == answers[1].usage.drafted_tokens > 0
    assert answers[0].usage.decode_passes == answers[1].usage.decode_passes


@pytest.mark.parametrize("way", SHARED_DRAFTS)
def test_a_memory_reaches_the_sessions_that_share_it_and_no_others(way: str) -> None:
    memory = DraftMemory()
    messages = start()

    def asked(**options: Any) -> Any:
        one = ReplanSession(model(), byte_level(), draft=way, **options)
        return one.generate(messages, max_new_tokens=40)

    first = asked(draft_memory=memory)
    again, alone, unshared = asked(draft_memory=memory), asked(draft_memory=DraftMemory()), asked()
    assert first.text == again.text == alone.text == unshared.text
    assert again.usage.decode_passes < first.usage.decode_passes
    assert first.usage.decode_passes == alone.usage.decode_passes == unshared.usage.decode_passes
    assert memory.tokens == 80


def test_a_call_that_is_interrupted_leaves_drafts_that_can_be_used() -> None:
    one, messages = session(True), start()
    one.generate(messages, max_new_tokens=NEW)
    messages += turn("go to shelf 1", 0)
    ticks = iter(range(100))

    def broken() -> bool:
        if next(ticks) == 4:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        one.generate(messages, max_new_tokens=NEW, cancel=broken)
    cancelled = one.generate(messages, max_new_tokens=NEW, cancel=lambda: next(ticks) > 8)
    assert cancelled.finish_reason == "cancelled"
    plain = session(False)
    assert one.generate(messages, max_new_tokens=NEW).text == plain.generate(messages, max_new_tokens=NEW).text
    one.close()
    assert one.generate(start(), max_new_tokens=NEW).text == session(False).generate(start(), max_new_tokens=NEW).text


def test_what_is_refused() -> None:
    cost = CostModel(prefill=(0.0,) * 5, decode=(1.0,) * 8)
    for options, words in (
        ({"draft": "guess"}, "draft must be True, False or one of automaton, automaton-run, lookup"),
        ({"draft": "lookup", "draft_cost": cost}, "draft_cost is for draft='automaton'"),
        ({"draft": True, "draft_memory": DraftMemory()}, "draft_memory is for draft='automaton-run' or 'suffix'"),
        ({"draft": "suffix", "draft_memory": 3}, "draft_memory must be a DraftMemory or None, got int"),
    ):
        with pytest.raises(ValueError, match=words):
            ReplanSession(model(), byte_level(), **options)


def test_calibrated_costs_decide_how_much_is_verified() -> None:
    def drafted(further: float) -> tuple[str, int]:
        cost = CostModel(prefill=(0.0,) * 5, decode=(1.0, 0.0, 0.0, 0.0, 0.0, further, further, 0.0))
        one = ReplanSession(model(), byte_level(), draft="automaton", draft_cost=cost)
        answer = one.generate(start(), max_new_tokens=60)
        return answer.text, answer.usage.drafted_tokens

    (text, free), (same, dear) = drafted(0.0), drafted(1.5)
    assert text == same and free > 0 == dear
