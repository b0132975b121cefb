"""The estimate of a run's remaining time, from given durations."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from erecap.rollout.jobs import Job
from erecap.rollout.progress import RunProgress
from erecap.rollout.time_left import TimeLeft

LONG, SHORT = "chains", "levels"


def jobs(suite: str, modes: str, episodes: int = 1) -> list[Job]:
    return [Job(suite, mode, episode, 0, sample=False) for episode in range(episodes) for mode in modes]


def row(suite: str, mode: str, seconds: float | None = None) -> dict:
    return {"suite": suite, "mode": mode} | ({} if seconds is None else {"wall_s": seconds})


def test_no_time_is_told_before_each_suite_has_shown_what_it_takes() -> None:
    left, elapsed = TimeLeft([*jobs(LONG, "abc"), *jobs(SHORT, "abc")]), 0.0
    told = []
    ended = [(LONG, "a", 190), (LONG, "b", 50), (LONG, "c", 42), (SHORT, "a", 16), (SHORT, "b", 14)]
    for suite, mode, seconds in ended:
        left.ended(row(suite, mode, seconds), 0.0)
        elapsed += seconds
        told.append(left.seconds(elapsed, 0.0))
    assert told == [None, None, None, None, pytest.approx(15)]
    left.ended(row(SHORT, "c", 15), 0.0)
    assert left.seconds(elapsed + 15, 0.0) == 0


def test_modes_weigh_alike_and_the_episode_that_is_played_counts_down() -> None:
    left = TimeLeft(jobs(LONG, "ab", episodes=3))
    left.ended(row(LONG, "a", 100), 0.0)
    assert left.seconds(100, 0.0) is None
    left.ended(row(LONG, "b", 20), 0.0)
    assert left.seconds(120, 0.0) == pytest.approx(4 * 60)
    assert left.seconds(150, 30.0) == pytest.approx(4 * 60 - 30)
    assert left.seconds(1000, 880.0) == pytest.approx(3 * 60)  # it takes longer: the others are still to come
    left.ended(row(LONG, "a", 120), 0.0)
    assert left.seconds(240, 0.0) == pytest.approx(3 * (110 + 20) / 2)


def test_workers_play_more_than_a_second_of_episodes_in_each() -> None:
    left = TimeLeft(jobs(LONG, "a", episodes=12))
    for _ in range(4):
        left.ended(row(LONG, "a", 40), 0.0)
    assert left.seconds(40, 0.0) == pytest.approx(8 * 40 / 4)


def test_earlier_rows_count_and_rows_without_a_time_take_that_since_the_last() -> None:
    done = [row(LONG, "a", 10), row(LONG, "b", 30), row(SHORT, "a")]
    left = TimeLeft([*jobs(LONG, "ab"), *jobs(SHORT, "a", episodes=2)], done)
    assert left.seconds(0, 0.0) is None
    left.ended(row(SHORT, "a"), 6.0)
    assert left.seconds(6, 0.0) == pytest.approx(2 * 20 + 6)


@pytest.mark.parametrize("modes", [[], ["full"]])
def test_wins_are_shown_where_there_are_modes_to_win(modes: list[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with RunProgress(console, modes, 1, [], jobs(LONG, "a")):
        pass
    assert ("won" in console.export_text()) == bool(modes)
