"""Alignment of two versions of one conversation, and a compaction carried from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from erecap.context.compaction import MARKER, CompactView
from erecap.context.compaction.alignment import align, message_key, retold
from erecap.generation import Message

KEYS = st.lists(st.sampled_from([bytes([n]) for n in range(6)]), max_size=25)


def count(messages: Sequence[Message]) -> int:
    return sum(2 + len((message["content"] or "").split()) for message in messages)


@given(KEYS, KEYS)
def test_an_alignment_pairs_equal_messages_in_order(old: list[bytes], new: list[bytes]) -> None:
    matches = align(old, new)
    found = [at for at in matches if at is not None]
    assert len(matches) == len(new) and found == sorted(set(found))
    assert all(old[at] == key for at, key in zip(matches, new, strict=True) if at is not None)
    assert align(old, old) == list(range(len(old)))
    pairs = retold(matches, ["user"] * len(old), ["user"] * len(new))
    assert pairs == sorted(pairs) and not {at for at, _ in pairs} & set(found)


@given(st.lists(st.binary(min_size=2, max_size=2), unique=True, min_size=3, max_size=40), st.data())
def test_a_window_that_slides_is_found_again(keys: list[bytes], data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(keys) - 1))
    new = [keys[0], *keys[start:], b"new"]
    assert align(keys, new) == [0, *range(start, len(keys)), None]


def chat(seen: Sequence[str]) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Goal: a mug."}]
    for number, text in enumerate(seen):
        messages += [{"role": "assistant", "content": f"go {number % 3}"}, {"role": "user", "content": text}]
    return messages


OBSERVATIONS = st.lists(st.sampled_from(["a b c", "x " * 9, "one two", "y\nz " * 5, "mug"]), min_size=1, max_size=14)
CHANGES = st.sampled_from(["append", "retell newest", "slide", "system", "rewind", "retell all", "swap"])


@given(OBSERVATIONS, st.lists(st.tuples(CHANGES, st.integers(0, 9)), max_size=8), st.integers(25, 90))
def test_whatever_the_host_does_to_its_past(seen: list[str], changes: list[tuple[str, int]], most: int) -> None:
    """Each view is of the newest version alone: whole messages of it and markers, in order, tools and roles in step."""
    view = CompactView(count, max_tokens=most)
    messages = chat(seen)
    for change, number in changes:
        shown = view.show(messages)
        texts = [message["content"] for message in messages]
        place = -1
        for message in shown.messages:
            if message["content"] != MARKER:
                place = texts.index(message["content"], place + 1)
        assert shown.messages[0] == messages[0] and shown.messages[-1]["content"] == texts[-1]
        roles = [message["role"] for message in shown.messages]
        assert all(a != b for a, b in pairwise(roles))
        assert shown.tokens == count(shown.messages) <= max(most, count([*messages[:2], *messages[-2:]]))
        assert shown.thrashed <= shown.compactions
        old = list(messages)
        if change == "append":
            messages = chat([*[m["content"] for m in old[3::2]], f"new {number}"])
        elif change == "retell newest":
            messages = [*old[:-1], {**old[-1], "content": f"{old[-1]['content']} again {number}"}]
            messages += [{"role": "assistant", "content": "go"}, {"role": "user", "content": "now " * number + "."}]
        elif change == "slide" and len(old) > 6:
            messages = [old[0], *old[3:], {"role": "assistant", "content": "go"}, {"role": "user", "content": "more"}]
        elif change == "system":
            messages = [{"role": "system", "content": f"Rules at step {number}."}, *old[1:]]
        elif change == "rewind":
            messages = old[: max(4, len(old) - 2 * number)]
        elif change == "retell all":
            messages = [old[0], *({**m, "content": f"{m['content']} told"} for m in old[1:])]
        elif change == "swap" and len(old) > 6:
            messages = [*old[:2], *old[4:6], *old[2:4], *old[6:]]


def test_equal_messages_have_equal_keys_whatever_is_said_about_them() -> None:
    one: Message = {"role": "tool", "content": "x", "protect": [(0, 1)]}
    assert (
        message_key(one)
        == message_key({"role": "tool", "content": "x"})
        != message_key({"role": "user", "content": "x"})
    )
    assert message_key({"role": "user", "content": "\ud800"}) != message_key({"role": "user", "content": "?"})
