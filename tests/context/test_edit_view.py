"""Views that edit on the server, and compaction that drops thinking first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from erecap.context.compaction import CompactView, EditView, compact_messages
from erecap.generation import Message


def count(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].split()) + 1 for message in messages)


def begun() -> list[Message]:
    return [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Goal: cool the apple."}]


def turn(number: int) -> list[Message]:
    return [
        {"role": "assistant", "content": f"<think>maybe shelf {number} or another one</think>\ngo to shelf {number}"},
        {"role": "user", "content": f"On the shelf {number} you see a mug, a plate and a long row of books."},
    ]


def seen(messages: Sequence[Message], edits: dict) -> int:
    gone = {number for numbers in edits["drop_message"].values() for number in numbers}
    return count([message for number, message in enumerate(messages) if number not in gone])


def test_the_text_is_only_appended_to_and_edits_stay() -> None:
    view, talk, lists = EditView(count, max_tokens=120), begun(), []
    for number in range(20):
        shown = view.show(talk)
        assert shown.messages == talk and shown.before == count(talk)
        assert shown.tokens <= 120 and (shown.edits is None or seen(talk, shown.edits) == shown.tokens)
        if shown.edits:
            lists.append(shown.edits)
            drop = shown.edits["drop_message"]
            assert shown.edits["reposition"] == [int(behind) for behind in drop]
            for behind, gone in drop.items():
                assert max(gone) < int(behind) and not {0, 1}.intersection(gone)
        assert view.show(talk).edits == shown.edits  # asked again, the list is the same
        talk = [*talk, *turn(number)]
    for one, two in pairwise(lists):
        assert one["drop_message"].items() <= two["drop_message"].items()
    assert 2 < len(lists[-1]["drop_message"]) < 9  # now and then, far enough that many calls follow


def test_a_changed_past_takes_back_the_edits_behind_it() -> None:
    view, talk = EditView(count, max_tokens=120), begun()
    for number in range(16):
        talk = [*talk, *turn(number)]
        edits = view.show(talk).edits
    assert edits is not None and len(edits["drop_message"]) > 1
    first = min(map(int, edits["drop_message"]))
    changed = [*talk[: first + 1], {"role": "assistant", "content": "look"}, *talk[first + 2 :]]
    fork = view.fork()
    again = view.show(changed).edits
    assert again is not None and again["drop_message"][str(first)] == edits["drop_message"][str(first)]
    assert set(again["drop_message"]) == {str(first), str(len(changed) - 1)}
    assert fork.show(talk).edits == edits and not fork.goes_on(changed, [b"x"])
    assert view.show(begun()).edits is None


def test_thinking_goes_before_anything_else_and_only_as_much_as_is_needed() -> None:
    talk = [*begun(), *turn(1), *turn(2), *turn(3)]
    talk[3]["stale"] = [(0, len(talk[3]["content"]))]
    whole = count(talk)
    one = compact_messages(talk, whole - 3, count, thinking_first=True)
    assert one.messages[2]["content"] == "go to shelf 1" and one.messages[3:] == talk[3:]
    two = compact_messages(talk, whole - 9, count, thinking_first=True)
    assert [message["content"] for message in two.messages[2:6:2]] == ["go to shelf 1", "go to shelf 2"]
    assert two.messages[3] == talk[3] and two.messages[6] == talk[6]  # the newest exchange stays as it is
    assert compact_messages(talk, whole - 9, count).messages[2] == talk[2]  # without it, answers stay as they were told
    assert compact_messages(talk, whole, count, thinking_first=True).messages == talk
    only = [*begun(), {"role": "assistant", "content": "<think>a b c d</think>"}, *turn(2)[1:], *turn(3)]
    assert compact_messages(only, count(only) - 1, count, thinking_first=True).messages[2]["content"] == "[removed]"
    marked = [
        *begun(),
        {"role": "assistant", "content": "Hm, a b c. Go.", "thoughts": [(0, 11)]},
        *turn(2)[1:],
        *turn(3),
    ]
    assert compact_messages(marked, count(marked) - 2, count, thinking_first=True).messages[2]["content"] == "Go."


def test_a_view_keeps_what_it_has_dropped_of_the_thinking() -> None:
    view, talk = CompactView(count, max_tokens=100, thinking_first=True), begun()
    for number in range(5):
        talk = [*talk, *turn(number)]
        shown = view.show(talk)
    assert shown.compactions == 1 and "maybe shelf 0" not in shown.messages[2]["content"]
    assert view.fork().show(talk).messages == shown.messages
