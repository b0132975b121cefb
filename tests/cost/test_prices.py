"""The rule for remote models with cached-token prices, and the prices."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.cost.prices import ModelPrices, edit_pays, load_prices, prices_of
from erecap.errors import ConfigError

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


def test_listed_prices() -> None:
    prices = load_prices()
    assert len(prices) >= 10 and all(0 < p.cached_input < p.input <= p.uncached < p.output for p in prices.values())
    assert prices_of("gpt-4.1-mini") == prices["gpt-4.1-mini"]
    with pytest.raises(ConfigError, match="no prices of 'gpt-0'; listed: claude"):
        prices_of("gpt-0")


def test_dollars() -> None:
    prices = ModelPrices(input=2.0, cached_input=0.5, output=8.0)
    assert prices.dollars(cached=1_000_000, uncached=500_000, output=250_000) == pytest.approx(0.5 + 1.0 + 2.0)
    assert prices.dollars(cached=1_000_000, uncached=500_000, output=0, caching=False) == pytest.approx(3.0)
    written = ModelPrices(input=2.0, cached_input=0.5, output=8.0, cache_write=2.5)
    assert written.dollars(cached=0, uncached=1_000_000, output=0) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no prices"),
        ("- 1", "no prices"),
        ("a: {input: 1", "not valid YAML"),
        ("a: {input: 1, cached_input: 0.1}", "a.output: Field required"),
        ("a: {input: 1, cached_input: 2, output: 3}", "cached_input 2.0 is above"),
        ("a: {input: -1, cached_input: 0, output: 3}", "a.input: Input should be greater"),
        ("a: {input: 1, cached_input: 0, output: 3, per: day}", "a.per: Extra inputs"),
    ],
)
def test_prices_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_prices(tmp_path / "prices.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        load_prices(tmp_path / "other.yaml")
