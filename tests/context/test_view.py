"""The view of a growing conversation: appended to while prompt caches hold, compacted when it is due or pays."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context.compaction import MARKER, CompactView, compact_messages
from erecap.cost.prices import ModelPrices, edit_pays
from erecap.generation import Message

PRICES = ModelPrices(input=1.0, cached_input=0.1, output=4.0)


def count(messages: Sequence[Message]) -> int:
    return sum(2 + len(message["content"].split()) for message in messages)


def talk(sizes: Sequence[int]) -> list[Message]:
    chat: list[Message] = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Fetch the mug 1."}]
    for number, size in enumerate(sizes):
        chat.append({"role": "assistant", "content": f"go to shelf {number}"})
        chat.append({"role": "user", "content": f"You see a thing {number}." + " It is there." * size})
    return chat


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(60, 200), st.booleans())
def test_the_budget_holds_and_the_front_stays(sizes: list[int], most: int, priced: bool) -> None:
    view = CompactView(count, max_tokens=most, prices=PRICES if priced else None, calls_left=20 if priced else None)
    before: list[Message] = []
    for calls in range(len(sizes) + 1):
        chat = talk(sizes[:calls])
        shown = view.show(chat)
        assert shown.tokens == count(shown.messages) <= max(most, 60) and shown.before == count(chat)
        assert shown.messages[0] == chat[0] and shown.messages[1] == chat[1]
        assert shown.messages[-1]["content"] == chat[-1]["content"]
        if not shown.compacted:
            assert shown.messages[: len(before)] == before and shown.same == (count(before) if before else 0)
            assert shown.reason == "appended"
        else:
            wanted = compact_messages(chat, view.target_tokens, count)
            assert shown.messages == wanted.messages
            assert shown.tokens <= view.target_tokens or "the rest is protected" in shown.reason
        assert shown.same <= shown.tokens
        before = shown.messages


def test_without_a_maximum_nothing_is_left_out() -> None:
    view = CompactView(count, max_tokens=None)
    messages = talk([50] * 20)
    for end in (3, 21, len(messages)):
        shown = view.show(messages[:end])
        assert shown.messages == messages[:end] and shown.reason == "appended"
    assert shown.tokens == shown.before == count(messages) and not shown.compacted
    with pytest.raises(ValueError, match="without max_tokens nothing is compacted"):
        CompactView(count, max_tokens=None, target_tokens=50)


def test_between_compactions_nothing_changes_in_front() -> None:
    view = CompactView(count, max_tokens=400)
    shown = [view.show(talk([3] * calls)) for calls in range(60)]
    compactions = [number for number, one in enumerate(shown) if one.compacted]
    assert 2 <= len(compactions) <= 12 and all(one.before <= 400 for one in shown[: compactions[0]])
    # A call that only appends finds all but its newest exchange in the cache.
    assert all(one.tokens - one.same < 30 for number, one in enumerate(shown[1:], 1) if number not in compactions)


def test_it_is_compacted_early_where_that_costs_less() -> None:
    chat = talk([9] * 9)
    whole, shorter = count(chat), compact_messages(chat, 100, count)
    same = next(n for n, (a, b) in enumerate(zip(chat, shorter.messages, strict=False)) if a["content"] != b["content"])
    after = shorter.tokens - count(chat[:same])
    early = []
    for calls_left in (1, 5, 30, 300):
        view = CompactView(count, max_tokens=10 * whole, target_tokens=100, prices=PRICES, calls_left=calls_left)
        shown = view.show(chat)
        assert shown.compacted == edit_pays(whole - shorter.tokens, after, 0.1, 1.0, calls_left)
        assert shown.reason.endswith("it pays") == shown.compacted
        early.append(shown.compacted)
    assert early[0] is False and early[-1] is True
    assert not CompactView(count, max_tokens=10 * whole, target_tokens=100, calls_left=300).show(chat).compacted


def test_the_newest_message_may_grow_and_the_past_may_be_rewritten() -> None:
    view = CompactView(count, max_tokens=120)
    chat = talk([5] * 9)
    first = view.show(chat)
    assert first.compacted
    grown = [*chat[:-1], {**chat[-1], "content": chat[-1]["content"] + " And a fork."}]
    second = view.show(grown)
    assert second.reason == "appended" and second.messages[:-1] == first.messages[:-1]
    assert second.messages[-1]["content"].endswith("And a fork.")
    other = talk([5, 5])
    third = view.show(other)
    assert third.reason == "the past was rewritten" and third.messages == other
    view.restart()
    assert view.show(other).same == 0


@pytest.mark.parametrize(("most", "target"), [(0, None), (10, 0), (10, 11)])
def test_budgets_that_cannot_be_kept_are_refused(most: int, target: int | None) -> None:
    with pytest.raises(ValueError, match="target_tokens: got"):
        CompactView(count, max_tokens=most, target_tokens=target)


def test_what_is_shorter_than_a_marker_is_not_blanked_when_a_window_slides() -> None:
    """The budget holds to the last token, also where all that may go is shorter than what would stand for it."""
    turns: list[Message] = [{"role": "user", "content": "Fetch the mug."}]
    for number in range(12):
        turns += [{"role": "assistant", "content": f"go to shelf {number}"}, {"role": "user", "content": f"m{number}"}]
    view = CompactView(lambda chat: sum(len(message["content"]) for message in chat), max_tokens=30)
    for first in (0, 2, 4, 6, 8, 10, 12):
        chat = turns[first : first + 7]
        shown = view.show(chat)
        assert MARKER not in [message["content"] for message in shown.messages]
        assert shown.tokens <= 30 and shown.messages[0]["content"] == chat[0]["content"]


def test_a_goal_that_is_no_longer_told_is_blanked_as_what_it_was() -> None:
    """Where the head of a chat slides away, its new first message may be JSON, and may have spans of its own."""
    seen = json.dumps({"seen": "a mug " * 40, "old": "a pan " * 20})
    turns: list[Message] = [{"role": "user", "content": "Fetch the mug."}]
    for number in range(9):
        turns += [{"role": "user", "content": seen.replace("mug", f"mug {number}"), "stale": [(60, 90)]}]
        turns += [{"role": "assistant", "content": f"go to shelf {number}"}]
    view, blanked = CompactView(count, max_tokens=340), 0
    for first in (0, 1, 3, 5, 7, 9):
        chat = turns[first : first + 6]
        shown = view.show(chat)
        assert shown.tokens <= 340
        kept = [message for number, message in enumerate(chat) if number not in shown.dropped]
        for before, message in zip(kept, shown.messages, strict=True):
            if before["content"].startswith("{") and message["content"] != before["content"]:
                blanked += json.loads(message["content"]) == MARKER
    assert blanked >= 3
