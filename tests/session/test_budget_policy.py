"""Budgets in tokens, without any model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.budget import LEFT, Budget, budget_order
from erecap.cost.model import CostModel
from erecap.errors import BudgetError
from erecap.session.automatic import saving

TOKENS, SIZE = st.integers(0, 20_000), st.integers(1, 100_000)
KEPT = st.integers(16, 5000)


@given(read=TOKENS, window=st.integers(2, 20_000), room=st.integers(0, 3000), each=SIZE, memory=st.integers(1, 10**9))
def test_the_automatic_limit_is_what_fits_window_and_memory(read, window, room, each, memory) -> None:  # type: ignore[no-untyped-def]
    holds = min(window, memory // each)
    asked = {"read": read, "window": window, "room": room, "bytes_per_token": each}
    if holds - room < 1:
        with pytest.raises(BudgetError, match="no room beside an answer"):
            Budget.auto(memory).limit(**asked)
        return
    limit = Budget.auto(memory).limit(**asked)
    assert limit is not None
    assert limit.most + room <= window and (limit.most + room) * each <= memory  # the answer fits as well
    assert limit.most + room + 1 > window or (limit.most + room + 1) * each > memory  # and no token more would
    assert 1 <= limit.down_to <= limit.most and limit.down_to in (1, int(LEFT * limit.most))
    assert ("window" if holds < memory // each else "memory" if holds < window else "the ") in limit.reason


@given(read=TOKENS, window=st.integers(1000, 20_000), stored=TOKENS, each=SIZE, data=st.data())
def test_unevenly_stored_tokens_leave_room_for_more(read, window, stored, each, data) -> None:  # type: ignore[no-untyped-def]
    taken = data.draw(st.integers(0, stored * each))
    memory = data.draw(st.integers(taken + each, taken + 2000 * each))
    asked = {"read": read, "bytes_per_token": each, "stored": stored, "stored_bytes": taken}
    limit = Budget.auto(memory).limit(window=None, **asked)
    assert (
        limit is not None and taken + (limit.most - stored) * each <= memory < taken + (limit.most - stored + 1) * each
    )
    if taken == stored * each:
        assert limit == Budget.auto(memory).limit(read=read, window=None, bytes_per_token=each)
    bounded = Budget.auto(memory).limit(window=window, **asked)
    assert bounded is not None and bounded.most == min(window, limit.most)


@given(read=TOKENS, kv_tokens=st.none() | KEPT, kv_ratio=st.none() | st.floats(0.01, 1), room=st.integers(0, 3000))
def test_a_fixed_limit_asks_for_nothing_else(read, kv_tokens, kv_ratio, room) -> None:  # type: ignore[no-untyped-def]
    budget = Budget(kv_tokens, kv_ratio)
    limit = budget.limit(read=read, window=100, room=room, bytes_per_token=7, stored=5, stored_bytes=1)
    assert budget.limited == (kv_tokens is not None or kv_ratio is not None) == (limit is not None)
    if limit is not None:
        assert limit.most == limit.down_to == budget.tokens(read)


def test_kinds_of_budgets() -> None:
    assert Budget.auto().limited and Budget.auto().tokens(10**6) is None
    assert not Budget().limited and Budget().limit(read=10**6, window=100) is None
    assert Budget.auto().limit(read=0, window=None) is None  # without a window and a memory there is nothing to fill
    assert sorted(["auto", 2048, None, 512], key=budget_order) == [None, 512, 2048, "auto"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"automatic": True, "kv_tokens": 100}, "neither kv_tokens nor kv_ratio"),
        ({"automatic": True, "kv_ratio": 0.5}, "neither kv_tokens nor kv_ratio"),
        ({"memory_bytes": 100}, "for an automatic budget"),
        ({"kv_tokens": 100, "pays": 0.2}, "for an automatic budget"),
        ({"automatic": True, "memory_bytes": 0}, "memory_bytes must be 1 or more"),
        ({"automatic": True, "pays": 0.5}, r"pays must be above 0 and below 0\.5"),
        ({"automatic": True, "pays": 0.0}, r"pays must be above 0 and below 0\.5"),
    ],
)
def test_bad_automatic_budgets(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_what_dropping_saves_counts_the_dropping() -> None:
    cost = CostModel(prefill=(10, 1, 0, 0, 0.01), decode=(5, 0.1, 0, 0, 0, 0, 0, 0), evict=(3, 0.01))
    now, then = cost.predict_replan(50, 1000, 20), cost.predict_replan(50, 400, 20) + cost.predict_evict(1000)
    assert saving(cost, 1000, 400, new=50, plan_tokens=20) == (1 - then / now, now, then)
    free = CostModel(cost.prefill, cost.decode)
    assert saving(free, 1000, 400, new=50, plan_tokens=20)[0] > saving(cost, 1000, 400, new=50, plan_tokens=20)[0] > 0
