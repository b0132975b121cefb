"""The buffer of a planner: bounded, oldest first, and without what is outdated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erecap.planners.cooperative.inbox import Contribution, Inbox


def test_oldest_first_and_once() -> None:
    inbox = Inbox(4)
    for subject in "abc":
        inbox.put(Contribution(subject, f"{subject} 1"))
    inbox.put(Contribution("a", "a 2"))
    assert [told.text for told in inbox.take()] == ["b 1", "c 1", "a 2"]
    assert inbox.take() == []


def test_a_full_buffer_drops_the_oldest_and_says_so() -> None:
    inbox = Inbox(4)
    for number in range(7):
        inbox.put(Contribution(str(number), str(number)))
    assert [told.text for told in inbox.take()] == ["3 older contributions were left out.", "3", "4", "5", "6"]
    inbox.put(Contribution("x", "x"))
    assert [told.text for told in inbox.take()] == ["x"]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.integers(1, 6))
def test_it_never_grows_beyond_its_limit(calls: list[tuple[int, bool]], limit: int) -> None:
    inbox, newest = Inbox(limit), {}
    for number, (subject, takes) in enumerate(calls):
        inbox.put(Contribution(str(subject), str(number)))
        newest[str(number)] = subject
        assert len(inbox) <= limit
        if takes:
            numbers = [int(told.text) for told in inbox.take() if told.subject]
            assert numbers == sorted(numbers) and numbers[-1] == number
