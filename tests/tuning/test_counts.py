"""Counts that are known beforehand against those of real reads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.tokens import PruneConfig, scheduled_counts
from erecap.tuning.agreement import Judge
from erecap.tuning.counts import Counts
from erecap.tuning.samples import Sample
from tests.session.chats import model


@settings(max_examples=25, deadline=None)
@given(
    st.integers(5, 60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 20)), max_size=3),
    st.sets(st.integers(1, 7), min_size=1).map(lambda places: tuple(sorted(places))),
    st.sampled_from([0.1, 0.5, 0.7, 0.9, 1.0]),
    st.sampled_from(["recency", "random", "attention"]),
)
def test_what_is_predicted_is_what_every_layer_reads(
    length: int, spans: list[tuple[int, int]], stages: tuple[int, ...], keep: float, scorer: str
) -> None:
    protect = tuple((low, min(length, low + size)) for low, size in spans if low < length)
    sample = Sample(tuple(range(5, 5 + length)), (3, 4), protect)
    judge = Judge(model(), [sample], keep, scorer)
    counts = Counts([sample], 8, judge.config((1,)))
    assert [list(one) for one in counts(stages)] == judge.compare(stages).kept


def test_without_protection_it_is_the_schedule() -> None:
    samples = [Sample(tuple(range(size)), (3,), ()) for size in (100, 333)]
    counts = Counts(samples, 30, PruneConfig(keep=0.7, local=0.0, sinks=0))
    assert [list(one) for one in counts((4, 7, 10))] == [scheduled_counts(n, 30, (4, 7, 10), 0.7) for n in (100, 333)]


def test_a_stage_that_finds_nothing_to_drop_does_nothing() -> None:
    sample = Sample(tuple(range(100)), (3,), ((0, 60),))
    counts = Counts([sample], 10, PruneConfig(keep=0.5, local=0.0))
    assert counts((2,)) == counts((2, 5)) != counts((3,))
    assert counts((2,))[0] == (100, 100, *(61,) * 8)  # the span, and the newest token
    # The newest tenth shrinks with what is there, from 10 tokens to 7: not the same, but nearly.
    shrinking = Counts([sample], 10, PruneConfig(keep=0.5))
    assert shrinking((2, 5))[0] == (100, 100, 70, 70, 70, *(67,) * 5)
    wide = Counts([Sample(tuple(range(1000)), (3,), ((0, 600),))], 10, PruneConfig(keep=0.5, local=0.005))
    assert wide((2, 5))[0][-1] == wide((2,))[0][-1] - 1  # 4 newest tokens instead of 5
    assert wide.nearly((2,)) == wide.nearly((2, 5)) != wide.nearly((3,))
    assert shrinking.nearly((2,)) != shrinking.nearly((2, 5))
