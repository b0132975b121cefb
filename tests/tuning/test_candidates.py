"""Stage sets: grids, neighbours, and those that a person writes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.errors import ConfigError
from erecap.tokens import PruneConfig
from erecap.tuning.candidates import check_sets, grids, neighbours, parse_sets, published, spread, words

SETS = st.sets(st.integers(1, 40), min_size=1, max_size=12).map(lambda places: tuple(sorted(places)))


@pytest.mark.parametrize("layers", [8, 28, 30, 32])
def test_published_stages_are_the_defaults_of_pruning(layers: int) -> None:
    assert published(layers) == PruneConfig().resolve_stages(layers)


def test_grids_are_regular_and_fit() -> None:
    sets = grids(30)
    assert (4, 7, 10, 13, 16, 19, 22, 25) in sets and (4, 7, 10) in sets and tuple(range(1, 28)) in sets
    assert len(set(sets)) == len(sets)
    for stages in sets:
        assert 1 <= stages[0] and stages[-1] < 28
        assert len({b - a for a, b in pairwise(stages)}) <= 1
    assert set(grids(30, allowed=(4, 7, 10))) == {(4,), (7,), (10,), (4, 7), (4, 7, 10), (4, 10), (7, 10)}
    assert grids(3) == []


@settings(max_examples=30, deadline=None)
@given(SETS)
def test_neighbours_differ_by_one_stage(stages: tuple[int, ...]) -> None:
    around = neighbours(stages, 42)
    assert stages not in around
    for other, what in around.items():
        gone, new = set(stages) - set(other), set(other) - set(stages)
        assert list(other) == sorted(set(other)) and 1 <= other[0] and other[-1] < 42
        kind = {(1, 1): "moved", (1, 0): "dropped", (0, 1): "added"}[len(gone), len(new)]
        assert what.startswith(kind)
        assert stages in neighbours(other, 42)  # every step can be undone
    assert sum(what.startswith("added") for what in around.values()) == 41 - len(stages)


def test_neighbours_stay_where_the_scorer_can_rank() -> None:
    assert set(neighbours((4, 7), 30, allowed=(4, 6, 7))) == {(4, 6, 7), (4,), (7,), (4, 6), (6, 7)}


@settings(max_examples=100, deadline=None)
@given(st.lists(SETS, min_size=1, max_size=4, unique=True))
def test_what_is_written_is_read(sets: list[tuple[int, ...]]) -> None:
    assert parse_sets("; ".join(words(stages) for stages in sets)) == sets


def test_sets_as_a_person_writes_them() -> None:
    assert parse_sets("4,7,10; 6:28:4;4,7,10") == [(4, 7, 10), (6, 10, 14, 18, 22, 26)]
    assert words((4, 7, 10, 13)) == "4:14:3" and words((4, 7, 11, 13)) == "4,7,11,13" and words((5,)) == "5"


@pytest.mark.parametrize(
    "text", ["4,x", "0,3", "7,4", "4,4", "4:10", "1:5:0", "9:4:1", "", ";", "-3", "4;;x", "1:2:3:4"]
)
def test_other_sets_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--candidates") as error:
        parse_sets(text)
    assert "\n" not in str(error.value) and "4,7,10" in str(error.value)


def test_a_layer_that_is_not_there() -> None:
    check_sets([(4, 29)], 30)
    with pytest.raises(ConfigError, match="stage at layer 30 cannot be tried; allowed layers: 1 to 29"):
        check_sets([(4,), (4, 30)], 30)
    with pytest.raises(ConfigError, match="stage at layer 5 cannot be tried; allowed layers: 4, 7"):
        check_sets([(4, 5)], 30, allowed=(7, 4))


def test_a_spread_reaches_from_end_to_end() -> None:
    speeds = {(n,): float(n) for n in range(1, 12)}
    assert spread(list(speeds), speeds.__getitem__, 3) == [(1,), (6,), (11,)]
    assert spread(list(speeds), speeds.__getitem__, 1) == [(1,)]
    assert sorted(spread(list(speeds), speeds.__getitem__, 99)) == list(speeds)
    assert spread([], speeds.__getitem__, 3) == [] == spread(list(speeds), speeds.__getitem__, 0)
