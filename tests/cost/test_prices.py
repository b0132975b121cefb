"""The rule for remote models with cached-token prices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.cost.prices import edit_pays

TOKENS, CALLS = st.integers(0, 20_000), st.integers(0, 50)


@given(TOKENS, TOKENS, st.integers(0, 100), st.integers(0, 100), CALLS)
def test_the_rule_is_the_sum_of_all_bills(removed: int, after: int, cached: int, more: int, calls: int) -> None:
    uncached = cached + more
    # Left alone, every call finds everything cached. Edited, the first of them reads what is after the edit anew.
    left = calls * cached * (removed + after)
    edited = calls * cached * after + after * (uncached - cached)
    assert edit_pays(removed, after, cached, uncached, calls) == (edited < left)


def test_examples() -> None:
    # 1,000 tokens out, 500 behind them, cached tokens at a tenth: 100 a call against 450 once.
    assert not edit_pays(1000, 500, 0.1, 1.0, 4)
    assert edit_pays(1000, 500, 0.1, 1.0, 5)
    assert edit_pays(1000, 0, 0.1, 1.0, 1), "at the tail nothing is read anew"
    assert not edit_pays(1000, 500, 0.1, 1.0, 0)


@pytest.mark.parametrize("wrong", [(-1, 0, 0.1, 1, 1), (1, 0, 2, 1, 1), (1, 0, 0.1, 1, -1)])
def test_wrong_values(wrong: tuple) -> None:
    with pytest.raises(ValueError):
        edit_pays(*wrong)
