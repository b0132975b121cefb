"""Decisions of the scheduler: forced moves, deadlines, and never an eviction that costs more than it saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.cost.model import CostModel
from erecap.generation import Decision
from erecap.scheduling.call import State
from erecap.scheduling.rules import FASTEST, SLOWEST, Scheduler

COST = CostModel((40, 1.2, 0.3, 0.01, 2e-4), (15, 0.004, 0.003, 0, 0, 1.1, 1.1, 1e-4), (1, 0.01), (2, 0.06), chunk=512)
CALM = State(kv=500, new=100, positions=2000, protected=60)


def scheduler(**changes: Any) -> Scheduler:
    settings: dict[str, Any] = {"budget_tokens": 1024, "window": 8192, **changes}
    return Scheduler(settings.pop("cost", COST), **settings)


def stored_and_protected(draw: st.DrawFn) -> State:
    kv, new = draw(st.integers(0, 6000)), draw(st.integers(0, 1500))
    return State(
        kv=kv,
        new=new,
        rewritten=draw(st.sampled_from([0, 0, 200])),
        positions=kv + draw(st.integers(0, 8000)),
        plan_tokens=draw(st.integers(1, 64)),
        old_plan_tokens=draw(st.sampled_from([0, 12])),
        protected=draw(st.integers(0, kv)),
        chat=new + draw(st.integers(0, 3000)) if draw(st.booleans()) else None,
    )


STATES = st.composite(stored_and_protected)()
COSTS = st.builds(
    CostModel,
    prefill=st.tuples(*[st.floats(0, x) for x in (100, 2, 2, 0.1, 1e-3)]),
    decode=st.tuples(*[st.floats(0, x) for x in (100, 0.1, 0.1, 50, 50, 10, 10, 1e-3)]),
    evict=st.tuples(st.floats(0, 50), st.floats(0, 0.1)),
    splice=st.tuples(st.floats(0, 50), st.floats(0, 0.1)),
)
SETTINGS = st.fixed_dictionaries(
    {
        "cost": st.none() | COSTS,
        "budget_tokens": st.none() | st.integers(64, 3000),
        "deadline_ms": st.none() | st.floats(1, 5000),
        "low_watermark": st.floats(0.3, 1.0),
        "cooldown": st.integers(0, 3),
        "may_defer": st.booleans(),
        "reuse_plan": st.booleans(),
    }
)


@given(SETTINGS, st.lists(STATES, min_size=1, max_size=8))
def test_what_holds_for_every_decision(settings: dict, states: list[State]) -> None:
    own = scheduler(**settings)
    last = None
    for state in states:
        decision, target = own.decide(state), own.target_kv(state)
        assert min(state.protected, state.kv) <= target <= state.kv
        assert decision.reason and "\n" not in decision.reason
        assert (decision.predicted_ms is None) == (own.cost is None)
        if decision.action in ("append", "reuse-plan", "defer", "re-read"):
            assert target == state.kv
        if decision.action == "evict":
            assert target < state.kv
        if decision.action == "defer":
            assert own.may_defer and last != "defer"
        if decision.action == "reuse-plan":
            assert own.reuse_plan and state.old_plan_tokens
        if decision.action == "re-read":
            assert state.rewritten and state.chat is not None and state.chat + state.plan_tokens <= own.window
        if state.positions + state.new + state.plan_tokens > own.window:
            assert decision.action in ("splice", "reuse-plan", "defer")
        else:
            assert decision.action != "splice"
        last = decision.action


@given(SETTINGS, STATES, st.floats(FASTEST, SLOWEST))
def test_the_deadline_is_met_if_any_action_can(settings: dict, state: State, ratio: float) -> None:
    own = scheduler(**{**settings, "cost": settings["cost"] or COST, "deadline_ms": settings["deadline_ms"] or 300.0})
    own.ratio = ratio
    decision = own.decide(state)
    assert own.cost is not None and own.deadline_ms is not None and decision.predicted_ms is not None
    # What the mildest and the harshest way through this call take, reckoned apart from the scheduler.
    splicing = state.positions + state.new + state.plan_tokens > own.window

    def takes(target: int) -> float:
        ms = own.cost.predict_replan(state.new, target, state.plan_tokens, budget=own.budget_tokens)
        after = target + state.new + state.plan_tokens
        if own.budget_tokens is not None and after > own.budget_tokens:
            ms += own.cost.predict_evict(after)
        return ratio * (
            ms
            + (own.cost.predict_evict(state.kv) if target < state.kv else 0)
            + (own.cost.predict_splice(target) if splicing else 0)
        )

    possible = [takes(state.protected)]
    if not splicing and (own.budget_tokens is None or state.kv + state.new + state.plan_tokens <= own.budget_tokens):
        possible.append(takes(state.kv))
    if own.may_defer and state.old_plan_tokens:
        possible.append(0.0)
    if min(possible) <= own.deadline_ms:
        assert decision.predicted_ms <= own.deadline_ms
    elif decision.predicted_ms > own.deadline_ms:
        assert "nothing meets" in decision.reason


@given(SETTINGS, st.lists(STATES, min_size=2, max_size=12))
def test_voluntary_evictions_keep_their_distance_and_pay(settings: dict, states: list[State]) -> None:
    own = scheduler(**{**settings, "cost": settings["cost"] or COST, "deadline_ms": None})
    since = own.cooldown
    for state in states:
        decision, target = own.decide(state), own.target_kv(state)
        coming = state.new + state.plan_tokens
        over = own.budget_tokens is not None and state.kv + coming > own.budget_tokens
        if decision.action == "evict" and not over:
            assert since >= own.cooldown and own.cost is not None
            saved = own.cost.predict_replan(state.new, state.kv, state.plan_tokens) - own.cost.predict_replan(
                state.new, target, state.plan_tokens
            )
            assert own.horizon * saved >= own.cost.predict_evict(state.kv) or state.new > own.cost.chunk
        since = 0 if decision.action in ("evict", "splice", "re-read") else since + 1


def test_plain_appending() -> None:
    decision = scheduler().decide(CALM)
    assert decision.action == "append" and decision.predicted_ms == pytest.approx(COST.predict_replan(100, 500, 32))
    assert "500 tokens are stored" in decision.reason


def test_without_a_model_only_what_is_forced() -> None:
    own = scheduler(cost=None, deadline_ms=1.0, may_defer=True)
    assert own.decide(CALM).action == "append" and own.decide(CALM).predicted_ms is None
    full = own.decide(replace(CALM, kv=950))
    assert full.action == "evict" and "no calibrated cost model" in full.reason
    assert own.decide(replace(CALM, positions=8100)).action == "splice"


def test_over_the_budget_evicts_to_the_watermark_so_that_the_next_call_need_not() -> None:
    own = scheduler()
    over = replace(CALM, kv=950)
    assert own.decide(over).action == "evict" and own.target_kv(over) == 819
    after = replace(CALM, kv=819 + 40, new=50)
    assert own.decide(after).action == "append"
    # A call that brings more than the watermark leaves room for goes deeper, but never into what is protected.
    assert own.target_kv(replace(over, new=400)) == 1024 - 432
    assert own.target_kv(replace(over, new=1000)) == 60


def test_the_window_forces_a_splice_and_evicts_where_closing_up_is_not_enough() -> None:
    own = scheduler(budget_tokens=None)
    near = replace(CALM, positions=8100)
    assert own.decide(near).action == "splice" and own.target_kv(near) == 500
    full = replace(CALM, kv=8150, positions=8150)
    decision = own.decide(full)
    assert decision.action == "splice" and own.target_kv(full) == 8192 - 132 and "8,060" in decision.reason


def test_the_mildest_action_that_meets_the_deadline() -> None:
    state = State(kv=4000, new=100, positions=4000, protected=300, old_plan_tokens=12)
    options: dict[str, Any] = {"budget_tokens": None, "may_defer": True, "reuse_plan": True}
    takes = scheduler(**options).decide(state).predicted_ms
    assert takes is not None
    assert scheduler(**options, deadline_ms=takes + 1).decide(state).action == "append"
    tight = scheduler(**options, deadline_ms=takes - 100)
    decision, target = tight.decide(state), tight.target_kv(state)
    assert decision.action == "evict" and 300 < target < 4000
    # The most that may stay: one token more would be too slow.
    assert COST.predict_evict(4000) + COST.predict_replan(100, target + 1, 32) > takes - 100
    assert f"down to {target:,}" in decision.reason and f"{takes - 100:,.0f} ms" in decision.reason
    lowest = COST.predict_evict(4000) + COST.predict_replan(100, 300, 32)
    verify = COST.predict_verify(100, 4000, 12)
    assert verify < lowest
    assert scheduler(**options, deadline_ms=lowest - 1).decide(state).action == "reuse-plan"
    late = scheduler(**options, deadline_ms=verify - 1)
    assert [late.decide(state).action for _ in range(3)] == ["defer", "reuse-plan", "defer"]
    forbidden = scheduler(budget_tokens=None, deadline_ms=verify - 1)
    decision = forbidden.decide(state)
    # Memory is not given up for a deadline that is missed all the same.
    assert decision.action == "append" and "nothing meets" in decision.reason and forbidden.target_kv(state) == 4000


def test_an_eviction_that_costs_more_than_it_saves_is_not_made_and_the_reason_says_so() -> None:
    state = replace(CALM, kv=900, new=20)
    decision = scheduler().decide(state)
    assert decision.action == "evict" and "costs 10 ms and saves" in decision.reason
    dear = scheduler(cost=replace(COST, evict=(500.0, 0.01)))
    decision = dear.decide(state)
    assert decision.action == "append" and "costs 509 ms and saves" in decision.reason
    assert "so nothing is evicted" in decision.reason
    # Shortly before the budget forces an eviction anyway, little is saved.
    assert "over 1 call;" in scheduler().decide(replace(state, kv=960)).reason


def test_cooldown_between_evictions_that_nothing_forces() -> None:
    own = scheduler(cooldown=2)
    state = replace(CALM, kv=900, new=20)
    assert [own.decide(state).action for _ in range(5)] == ["evict", "append", "append", "evict", "append"]


def test_reading_anew_after_a_rewrite() -> None:
    # Little of a chat of 2,000 tokens is stored, and the budget could hold half of it.
    state = State(kv=100, new=300, rewritten=900, positions=1700, chat=2000, protected=50)
    decision = scheduler().decide(state)
    assert decision.action == "re-read" and "only 100 of the 1,700 tokens" in decision.reason
    assert decision.predicted_ms is not None and decision.predicted_ms > COST.predict_prefill(2000, 0, budget=1024)
    assert scheduler().decide(replace(state, rewritten=0)).action == "append"
    assert scheduler().decide(replace(state, chat=None)).action == "append"
    assert scheduler().decide(replace(state, kv=800, new=100)).action != "re-read", "enough is stored"
    assert scheduler(deadline_ms=1500).decide(state).action == "append", "too slow for the deadline"
    # A chat that the host has cut short is read faster than the stored rest is gone on from.
    short = State(kv=900, new=20, rewritten=3000, positions=4000, chat=40, protected=50)
    decision = scheduler().decide(short)
    assert decision.action == "re-read" and "reading all 40 tokens anew" in decision.reason


def test_what_is_observed_scales_later_predictions_within_bounds() -> None:
    own = scheduler()
    first = own.decide(CALM)
    assert first.predicted_ms is not None
    for _ in range(60):
        decision = own.decide(CALM)
        own.observe(decision, 2 * first.predicted_ms)
    assert own.ratio == pytest.approx(2, rel=0.01)
    assert own.decide(CALM).predicted_ms == pytest.approx(2 * first.predicted_ms, rel=0.01)
    own.observe(decision, 1e9)
    assert own.ratio <= 2 + 0.2 * 2 * SLOWEST
    for _ in range(60):
        own.observe(own.decide(CALM), 1e9)
    assert own.ratio == SLOWEST
    for _ in range(60):
        own.observe(own.decide(CALM), 1e-9)
    assert own.ratio == FASTEST
    own.observe(Decision("append", "without a prediction"), 5.0)
    own.observe(Decision("defer", "put off", 0.0), 5.0)
    assert own.ratio == FASTEST
    with pytest.raises(ValueError, match="actual_ms"):
        own.observe(first, float("nan"))


@pytest.mark.parametrize(
    "wrong", [{"budget_tokens": 0}, {"window": 0}, {"deadline_ms": 0.0}, {"low_watermark": 1.5}, {"cooldown": -1}]
)
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        scheduler(**wrong)


def test_wrong_states() -> None:
    with pytest.raises(ValueError, match=r"State\.kv"):
        State(kv=-1, new=0)
    with pytest.raises(ValueError, match=r"State\.chat"):
        State(kv=1, new=10, chat=5)
