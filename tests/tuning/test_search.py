"""The order of trials, the front and the choice, on landscapes that are known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.cost.flops import ModelShape
from erecap.tokens.scoring.schedule import scheduled_counts
from erecap.tuning.candidates import Stages, grids, published
from erecap.tuning.front import Candidate, eligible, pareto, ranked
from erecap.tuning.search import Search
from erecap.tuning.speed import SpeedModel

LAYERS = 20
SPEED = SpeedModel(ModelShape(LAYERS, 64, 256, 4, 2, 16, 100))


def counts(stages: Stages) -> tuple[int, ...]:
    return tuple(scheduled_counts(500, LAYERS, stages, 0.7))


def speed_up(stages: Stages) -> float:
    return SPEED.speed_up([counts(stages)], [500])


def landscape(stages: Stages, origin: str) -> Candidate:
    """Early layers must not drop: a stage before layer 9 costs 60 % of the tokens, any later one 3 %."""
    lost = min(1000, sum(600 if stage < 9 else 30 for stage in stages))
    return Candidate(stages, speed_up(stages), 1000 - lost, 1000, 0.5, origin)


def search(budget: int, seed: int = 0, evaluate=landscape, **options) -> Search:  # type: ignore[no-untyped-def]
    found = Search(LAYERS, evaluate, speed_up, counts, budget, seed, **options)
    found.run()
    return found


def test_a_search_is_repeatable_and_keeps_to_its_budget() -> None:
    asked: list[Stages] = []

    def noted(stages: Stages, origin: str) -> Candidate:
        asked.append(stages)
        return landscape(stages, origin)

    first = search(30, evaluate=noted)
    assert len(asked) == len(set(asked)) == len(first.found) == 30
    assert list(first.found) == list(search(30).found)
    assert list(first.found) != list(search(30, seed=1).found)
    assert asked[0] == published(LAYERS) and first.found[asked[0]].origin == "published"
    assert set(asked[:15]) <= set(grids(LAYERS))
    assert all(" in " in first.found[stages].origin for stages in asked[15:])


def test_it_climbs_above_all_grids_and_avoids_the_early_layers() -> None:
    found = search(200)
    best = ranked(found.found.values())[0]
    assert best.stages[0] >= 9
    assert best.score > max(landscape(stages, "").score for stages in grids(LAYERS))


def test_nothing_that_could_win_is_passed_over() -> None:
    found = search(120)
    best = ranked(found.found.values())[0].score
    assert found.hopeless and not found.hopeless & set(found.found)
    assert all(landscape(stages, "").score <= best for stages in found.hopeless)


def test_sets_that_are_the_same_in_effect_are_tried_once() -> None:
    def held(stages: Stages) -> tuple[int, ...]:  # no more than two stages find something to drop
        return stages[:2]

    found = Search(LAYERS, landscape, lambda stages: 9.0, held, 60)
    found.run()
    assert len(found.found) == 60 == len({held(stages) for stages in found.found})


def test_where_nothing_can_be_won_it_ends() -> None:
    def flat(stages: Stages, origin: str) -> Candidate:
        return Candidate(stages, 1.0, 10, 10, 1.0, origin)

    found = Search(LAYERS, flat, lambda stages: 1.0, counts, 40)
    assert len(found.run()) == 20  # the grids of half the budget, and not one neighbour


def test_a_wish_for_agreement_leads_the_climb() -> None:
    found = search(120, least_agreement=0.95)
    good = eligible(found.found.values(), 0.95)
    assert good and all(candidate.stages == (candidate.stages[0],) for candidate in good)  # one stage loses 3 %
    assert good[0].stages == (9,)
    never = search(40, least_agreement=1.0)
    assert len(never.found) == 40 and not eligible(never.found.values(), 1.0)


def test_only_layers_that_are_allowed() -> None:
    found = search(60, allowed=(9, 11, 13))
    assert set(found.found) == {(9,), (11,), (13,), (9, 11), (9, 13), (11, 13), (9, 11, 13)}


def test_a_small_model_and_a_small_budget() -> None:
    assert len(search(1).found) == 1
    tiny = Search(4, landscape, lambda stages: 2.0, lambda stages: stages, 9)
    assert set(tiny.run()) <= {(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)} and tiny.found


CANDIDATES = st.lists(st.tuples(st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.integers(0, 5)), min_size=1, max_size=12).map(
    lambda pairs: [Candidate((n + 1,), speed, same, 5, 0.5) for n, (speed, same) in enumerate(pairs)]
)


def test_a_front_by_hand() -> None:
    a, b, c = Candidate((1,), 3.0, 50, 100, 0.4), Candidate((2,), 2.0, 90, 100, 0.5), Candidate((3,), 1.0, 100, 100, 1)
    slower, worse = Candidate((4,), 1.9, 90, 100, 0.5), Candidate((5,), 2.0, 80, 100, 0.5)
    assert pareto([slower, c, worse, a, b]) == [a, b, c]
    assert ranked([a, b, c])[0] == b and b.score == 1.8
    assert eligible([a, b, c, slower], 0.9) == [b, slower, c] and eligible([a], 0.9) == []
    twin = Candidate((4, 6), 3.0, 50, 100, 0.4)
    assert pareto([twin, a]) == [a]  # of equal ones the one with fewer stages


@settings(max_examples=150, deadline=None)
@given(CANDIDATES)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(candidates: list[Candidate]) -> None:
    front = pareto(candidates)

    def beats(one: Candidate, other: Candidate) -> bool:
        return (one.speed_up >= other.speed_up and one.agreement >= other.agreement) and (
            one.speed_up > other.speed_up or one.agreement > other.agreement
        )

    assert not any(beats(other, own) for own in front for other in candidates)
    points = {(own.speed_up, own.agreement) for own in front}
    assert len(points) == len(front)
    for other in candidates:
        assert (other.speed_up, other.agreement) in points or any(beats(own, other) for own in front)
    assert ranked(candidates)[0].score == max(own.score for own in front)
