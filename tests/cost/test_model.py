"""Predictions of a cost model are sums of its terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.cost.model import PACKED, CostModel
from erecap.decoding.short import PACKED_TOKENS

COST = CostModel((40, 1.2, 0.3, 0.01, 2e-4), (15, 0.004, 0.003, 0, 0, 1.1, 1.1, 1e-4), (1, 0.01), (2, 0.06), chunk=512)
COUNT = st.integers(0, 6000)
SETTINGS = st.builds(
    CostModel,
    prefill=st.tuples(*[st.floats(0, 100)] * 5),
    decode=st.tuples(*[st.floats(0, 100)] * 8),
    chunk=st.integers(64, 600),
)


def test_a_long_read_is_the_sum_of_its_chunks() -> None:
    parts = COST.predict_prefill(512, 100) + COST.predict_prefill(512, 612) + COST.predict_prefill(76, 1124)
    assert COST.predict_prefill(1100, 100) == pytest.approx(parts)
    # With a budget what is stored between two chunks stays at it.
    parts = COST.predict_prefill(512, 100) + COST.predict_prefill(512, 300) + COST.predict_prefill(76, 300)
    assert COST.predict_prefill(1100, 100, budget=300) == pytest.approx(parts)


def test_decoding_takes_one_pass_less_than_tokens() -> None:
    assert COST.predict_decode(1, 500) == COST.predict_decode(0, 500) == 0
    assert COST.predict_decode(2, 500) == pytest.approx(COST.predict_pass(1, 500.5))
    one_by_one = sum(COST.predict_pass(1, 500 + n) for n in range(31))
    assert COST.predict_decode(32, 500) == pytest.approx(one_by_one, rel=0.001)
    assert COST.predict_decode(33, 500, passes=8) == pytest.approx(8 * COST.predict_pass(4, 516))
    assert COST.predict_decode(33, 500, passes=8) < COST.predict_decode(33, 500)


def test_a_replan_is_reading_and_decoding() -> None:
    expected = COST.predict_prefill(100, 1000) + COST.predict_decode(32, 1100)
    assert COST.predict_replan(100, 1000, 32) == pytest.approx(expected)
    assert COST.predict_verify(100, 1000, 20) == pytest.approx(
        COST.predict_prefill(100, 1000) + COST.predict_pass(20, 1100)
    )
    assert (COST.predict_evict(1000), COST.predict_splice(1000)) == (11, 62)


def test_short_chunks_have_a_cost_of_their_own() -> None:
    cost = replace(COST, prefill_short=(10.0, 1.0, 0.0, 0.0, 0.0), short=128)
    assert cost.predict_prefill(100, 900) == 110
    assert cost.predict_prefill(129, 900) == COST.predict_prefill(129, 900)
    # The rest of a long read is a short chunk.
    assert cost.predict_prefill(512 + 28, 0) == pytest.approx(COST.predict_prefill(512, 0) + 38)


def test_packed_weights_serve_passes_up_to_the_length_that_sessions_use() -> None:
    assert PACKED == PACKED_TOKENS
    step = replace(COST, decode=(0, 0, 0, 0, 50, 0, 0, 0))
    assert (step.predict_pass(PACKED, 0), step.predict_pass(PACKED + 1, 0)) == (0, 50)


@given(SETTINGS, COUNT, COUNT, st.integers(0, 100), st.none() | st.integers(16, 2000))
def test_more_to_do_never_takes_less_time(cost: CostModel, new: int, kv: int, plan: int, budget: int | None) -> None:
    base = cost.predict_replan(new, kv, plan, budget=budget)
    slack = 1e-9 * base
    assert cost.predict_replan(new + 7, kv, plan, budget=budget) >= base - slack or budget is not None
    assert cost.predict_replan(new, kv + 7, plan, budget=budget) >= base - slack
    assert cost.predict_replan(new, kv, plan + 1, budget=budget) >= base - slack


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefill": (1, 2)}, {"prefill": "12345"}, {"prefill": None}, {"decode": (1, 2, 3, 4, 5, 6, 7, -8)},
        {"evict": (1, float("nan"))}, {"evict": (1, "2")}, {"evict": (1, 10**400)}, {"splice": (True, 1)},
        {"prefill_short": 5}, {"short": "abc"}, {"short": -1}, {"short": 1.5}, {"chunk": 0}, {"chunk": None},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_coefficients(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"CostModel.{next(iter(wrong))}"):
        CostModel(**{"prefill": (1,) * 5, "decode": (1,) * 8, **wrong})
