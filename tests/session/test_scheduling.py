"""A session carries out its scheduler's decisions, and answers from the tokens that it stores."""

from __future__ import annotations

import pytest

from erecap import Budget, ReplanSession
from erecap.cost.model import DECODE_TERMS, CostModel
from erecap.scheduling.rules import Scheduler
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.oracle import Watch

NEW = 6
# Milliseconds of no real machine: one a token read, one a pass, and a little for what is stored.
PASS = (1, 0.01, *[0] * (len(DECODE_TERMS) - 2))
COST = CostModel(prefill=(0, 1, 0, 0, 0.001), decode=PASS, evict=(0.5, 0))


def scheduled(budget: int | None = None, cost: CostModel | None = COST, window: int = 4096, **options):  # type: ignore[no-untyped-def]
    scheduler = Scheduler(cost, budget_tokens=budget, window=window, **options)
    made = model(window=window)
    return ReplanSession(made, byte_level(), budget=Budget(kv_tokens=budget) if budget else None, scheduler=scheduler)


def test_the_answers_of_an_unbudgeted_session_are_the_unscheduled_ones() -> None:
    session, plain = scheduled(), ReplanSession(model(), byte_level())
    messages = start()
    for number in range(8):
        generation = session.generate(messages, max_new_tokens=NEW)
        assert generation.text == plain.generate(messages, max_new_tokens=NEW).text
        assert generation.decision is not None and generation.decision.action == "append"
        assert generation.decision.predicted_ms is not None and generation.decision.predicted_ms > 0
        assert "ms" in generation.decision.reason
        messages += turn(generation.text, number)
    assert session.scheduler is not None and session.scheduler.ratio != 1.0  # it has learned from actual times


def test_evicting_ahead_leaves_room_and_equals_the_oracle() -> None:
    session = scheduled(budget=200)
    watch = Watch(session)
    messages, actions = start(), []
    messages[1]["protect"] = [(0, 20)]
    for number in range(12):
        generation = session.generate(messages, max_new_tokens=NEW)
        assert generation.decision is not None
        actions.append(generation.decision.action)
        assert max(session.cache.kept_lengths()) <= 200
        messages += turn(generation.text, number)
        messages[-1]["protect"] = []
    assert "evict" in actions and "append" in actions
    assert watch.worst_error() <= 1e-4


def test_without_a_calibrated_model_nothing_is_predicted() -> None:
    session = scheduled(budget=120, cost=None)
    generation = session.generate(start(), max_new_tokens=NEW)
    assert generation.decision is not None and generation.decision.predicted_ms is None
    assert "no calibrated cost model" in generation.decision.reason


def test_positions_are_closed_up_before_the_window_is_full() -> None:
    session = scheduled(budget=200, window=256)
    messages, actions = start(), []
    for number in range(8):
        generation = session.generate(messages, max_new_tokens=NEW)
        assert generation.decision is not None
        actions.append(generation.decision.action)
        messages += turn(generation.text, number)
        messages[-1]["protect"] = []
    assert "splice" in actions


def test_a_call_is_put_off_only_while_an_old_plan_is_left() -> None:
    session = scheduled(deadline_ms=0.001, may_defer=True)
    first = session.generate(start(), max_new_tokens=NEW)
    assert first.finish_reason != "deferred" and first.text
    read = session.cache.get_seq_length()
    messages = start() + turn(first.text, 1)
    put_off = session.generate(messages, max_new_tokens=NEW, old_plan="go to shelf 2", trigger="period")
    assert put_off.finish_reason == "deferred" and put_off.text == ""
    assert put_off.decision is not None and "period" in put_off.decision.reason
    assert session.cache.get_seq_length() == read
    # Never twice in a row; and the answer is that of a session in which nothing was deferred.
    again = session.generate(messages, max_new_tokens=NEW, old_plan="go to shelf 2", trigger="period")
    plain = ReplanSession(model(), byte_level())
    plain.generate(start(), max_new_tokens=NEW)
    assert again.text == plain.generate(messages, max_new_tokens=NEW).text


def test_an_old_plan_that_still_holds_is_verified_in_one_pass() -> None:
    # Letters that no merge joins, so that the tokens of the text are the tokens that were generated.
    ids = [byte_level()(letter, add_special_tokens=False)["input_ids"][0] for letter in "zqjx"]
    options = {"max_new_tokens": 24, "allowed_tokens": lambda out: ids}
    wanted = ReplanSession(model(), byte_level(), draft=False).generate(start(), **options).text
    generation = scheduled().generate(start(), old_plan=wanted, **options)
    assert generation.text == wanted and len(wanted) == 24
    assert generation.usage.accepted_tokens == generation.usage.drafted_tokens == 22  # all but the first and the last
    other = scheduled().generate(start(), old_plan="something else", **options)
    assert other.text == wanted and other.usage.accepted_tokens < 22


@pytest.mark.parametrize("agrees", [True, False])
def test_a_late_call_ends_with_the_old_plan_if_the_model_agrees(agrees: bool) -> None:
    ids = [byte_level()(letter, add_special_tokens=False)["input_ids"][0] for letter in "zqjx"]
    options = {"max_new_tokens": 24, "allowed_tokens": lambda out: ids}
    wanted = ReplanSession(model(), byte_level(), draft=False).generate(start(), **options).text
    # Reading is free and a pass takes 10 ms: 240 ms for a whole plan, two passes where one verifies the old one.
    cost = CostModel(prefill=(0, 0, 0, 0, 0), decode=(10, *[0] * (len(DECODE_TERMS) - 1)))
    session = scheduled(cost=cost, deadline_ms=100, reuse_plan=True)
    old = wanted[:9] if agrees else wanted[:8] + ("z" if wanted[8] != "z" else "q")
    generation = session.generate(start(), old_plan=old, trigger="period", **options)
    assert generation.decision is not None and generation.decision.action == "reuse-plan"
    assert generation.text == (old if agrees else wanted)
    assert generation.finish_reason == ("stop" if agrees else "length")
    # The chat goes on from there as from any other answer.
    messages = start() + turn(generation.text, 1)
    plain = ReplanSession(model(), byte_level(), draft=False)
    plain.generate(start(), **(options | {"max_new_tokens": len(generation.text)}))
    assert session.generate(messages, **options).text == plain.generate(messages, **options).text


def test_a_rewritten_chat_is_read_anew_where_that_is_cheaper() -> None:
    session = scheduled(budget=400, cost=CostModel(prefill=(0, 1, 0, 3, 0), decode=PASS))
    messages = start()
    for number in range(6):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    changed = messages[:3]
    changed[2] = {"role": "user", "content": "Everything is different now."}
    generation = session.generate(changed, max_new_tokens=NEW)
    assert generation.decision is not None and generation.decision.action == "re-read"
    assert generation.usage.reused_tokens == 0
    fresh = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=400))
    assert generation.text == fresh.generate(changed, max_new_tokens=NEW).text


@pytest.mark.parametrize("fork", [False, True])
def test_each_fork_has_a_scheduler_of_its_own(fork: bool) -> None:
    session = scheduled()
    session.generate(start(), max_new_tokens=NEW)
    twin = session.fork() if fork else session
    assert (twin.scheduler is session.scheduler) is not fork
