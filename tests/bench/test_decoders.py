"""Decoders side by side on a tiny model; llama.cpp's are in tests/engines."""

from __future__ import annotations

import pytest

from erecap.bench.decoders import FUSED, PACKED, PLAIN, STOCK, DecoderBench, exactness, own_sides, summary_of, times
from tests.session.chats import model

BENCH = DecoderBench(stored=40, steps=6, passes=(1, 3), new_tokens=5, repetitions=2)
IDS = [(7 * n) % 90 + 3 for n in range(60)]


def quiet(line: str) -> None:
    pass


def test_errors_are_told_against_float64() -> None:
    made = model()
    found = {row["side"]: row for row in exactness(BENCH, own_sides(made), made, IDS, quiet)}
    assert list(found) == [STOCK, PLAIN, FUSED, *PACKED]
    for name in (STOCK, PLAIN, FUSED):
        assert 0 < found[name]["error"] < 1e-5 and found[name]["agreeing"] == found[name]["tokens"] == 6
    assert all(found[name]["error"] > 1e-4 for name in PACKED)


def test_every_side_reads_the_same_again_and_again() -> None:
    made = model()
    sides = own_sides(made)
    for name in (STOCK, PLAIN, FUSED):
        side = sides[name](IDS[:40])
        first = side.verify(IDS[40:43])
        side.back()
        prompt = side.prefill(IDS[40:43])
        side.back()
        assert side.verify(IDS[40:43]) == pytest.approx(first, abs=1e-5)
        assert prompt == pytest.approx(first[-1], abs=1e-5)
    # The second side reads by the modules, the third by the fused decoder.
    assert sides[PLAIN](IDS[:40]).engine.fused(1, True) is None  # type: ignore[attr-defined]
    assert sides[FUSED](IDS[:40]).engine.fused(1, True) is not None  # type: ignore[attr-defined]


def test_times_take_turns() -> None:
    made = model()
    sides = {name: side for name, side in own_sides(made).items() if name in (STOCK, FUSED)}
    timed = times(BENCH, sides, IDS, quiet)
    assert [(row["side"], row["what"]) for row in timed] == [
        (name, what) for name in (STOCK, FUSED) for what in ("1", "3", "prefill")
    ] * 2
    exact = [{"side": name, "error": 0.1, "agreeing": 1, "tokens": 2} for name in (STOCK, FUSED)]
    summary = summary_of(exact, timed)
    assert [list(row["ms"]) for row in summary] == [["1", "3", "prefill"]] * 2
    assert summary[0]["ms"]["1"]["min"] <= summary[0]["ms"]["1"]["median"] <= summary[0]["ms"]["1"]["max"]
