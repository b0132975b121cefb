"""Blanking old observations: the messages, spans and counts of a masked chat."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import Context
from erecap.context.compaction import MARKER, drop_exchanges, mask_messages
from erecap.context.render import render
from erecap.generation import Message

TEMPLATES = ("go to {receptacle}",)


def count(messages: Sequence[Message]) -> int:
    return sum(3 + len(message["content"].split()) for message in messages)


def episode(rows: Sequence[tuple[str, str]]) -> list[Message]:
    context = Context("cool an apple and put it on the shelf", TEMPLATES)
    context.add("observation", "You are in the middle of a room with a fridge 1 and a shelf 2.")
    for kind, text in rows:
        context.add(kind, text, "fridge 1" if "fridge" in text else "")  # type: ignore[arg-type]
    return render(context).messages


texts = st.lists(st.sampled_from(["fridge 1", "you see", "an apple 1", "nothing\nhere", "é"]), min_size=1, max_size=9)
kinds = st.sampled_from(["observation", "observation", "action", "failure", "plan", "goal"])
episodes = st.lists(st.tuples(kinds, texts.map(" ".join)), max_size=24).map(episode)


def inside(message: Message, key: str) -> list[str]:
    return [message["content"][start:end] for start, end in message.get(key, ())]  # type: ignore[attr-defined]


def blanked(messages: list[Message], places: frozenset[tuple[int, int]]) -> list[str]:
    """The contents with the marker written over the observations at `places`, from the end backwards."""
    contents = [message["content"] for message in messages]
    for number, start in sorted(places, reverse=True):
        end = dict(messages[number]["observations"])[start]
        contents[number] = contents[number][:start] + MARKER + contents[number][end:]
    return contents


@settings(max_examples=150, deadline=None)
@given(episodes, st.integers(1, 200))
def test_what_holds_for_every_chat(messages: list[Message], target: int) -> None:
    masked = mask_messages(messages, target, count)
    result = masked.messages
    assert [message["role"] for message in result] == [message["role"] for message in messages]
    assert masked.tokens == count(result)
    # Idempotent, also where the target is out of reach.
    assert mask_messages(result, target, count).messages == result
    # Nothing but those observations has changed, and what is left of the spans still names the same text.
    assert [message["content"] for message in result] == blanked(messages, masked.places)
    for number, (before, after) in enumerate(zip(messages, result, strict=True)):
        assert inside(after, "protect") == inside(before, "protect")
        rest = [span for span in before["observations"] if (number, span[0]) not in masked.places]
        assert inside(after, "observations") == [before["content"][start:end] for start, end in rest]


@settings(max_examples=150, deadline=None)
@given(episodes, st.integers(1, 200))
def test_no_more_is_blanked_than_needed(messages: list[Message], target: int) -> None:
    masked = mask_messages(messages, target, count)
    everything = mask_messages(messages, 1, count)
    if masked.tokens > target:
        assert masked.messages == everything.messages  # nothing was left to blank
    elif masked.places:
        newest = max(masked.places)
        fewer = mask_messages(messages, 10**6, count, already=masked.places - {newest})
        assert fewer.tokens > target
    # The oldest go first: what was blanked is a beginning of what can be.
    assert sorted(everything.places)[: masked.masked] == sorted(masked.places)


def test_the_oldest_goes_and_the_newest_stays() -> None:
    rows = [
        row
        for n in range(6)
        for row in (
            ("plan", f"go to shelf {n}"),
            ("action", f"go to shelf {n}"),
            ("observation", f"On the shelf {n}, you see a mug {n} and a bowl {n}."),
        )
    ]
    messages = episode(rows)
    masked = mask_messages(messages, count(messages) - 20, count)
    assert masked.messages[1]["content"] == f"Goal: cool an apple and put it on the shelf\n{MARKER}"
    assert masked.messages[3]["content"] == f"> go to shelf 0\n{MARKER}"
    assert masked.messages[5:] == messages[5:]
    everything = mask_messages(messages, 1, count)
    assert [MARKER in message["content"] for message in everything.messages[1::2]] == [True] * 6 + [False]
    assert everything.masked == 6


def test_observations_already_blanked_stay_blanked() -> None:
    rows = [("plan", "go to fridge 1"), ("action", "go to fridge 1"), ("observation", "The fridge 1 is closed now.")]
    messages = episode(rows * 3)
    first = mask_messages(messages, count(messages) - 5, count)
    longer = mask_messages(messages, None, count, already=first.places)
    assert first.masked and longer.messages == first.messages and longer.places == first.places


def test_messages_of_other_hosts() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "You plan."},
        {"role": "user", "content": "Put the mug away, and then come back."},
        {"role": "assistant", "content": "look around the room"},
        {"role": "user", "content": "You see a long list of many things here."},
        {"role": "assistant", "content": "take mug"},
        {"role": "user", "content": "Careful, this one must stay.", "protect": [(0, 8)]},
        {"role": "user", "content": "You hold the mug, the newest thing seen."},
    ]
    masked = mask_messages(messages, 1, count)
    changed = [n for n, (a, b) in enumerate(zip(messages, masked.messages, strict=True)) if a != b]
    assert changed == [3] and masked.messages[3]["content"] == MARKER
    assert messages[3]["content"].startswith("You see")  # what was given is as it was


def test_exchanges_go_oldest_first_unless_something_in_them_is_protected() -> None:
    messages: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "Goal: g"}]
    for number in range(5):
        held = [(0, 4)] if number == 1 else []
        messages += [
            {"role": "assistant", "content": f"plan {number}", "protect": []},
            {"role": "user", "content": f"Goal: {number}", "protect": held},
        ]
    assert drop_exchanges(messages, count(messages), count) == []
    assert drop_exchanges(messages, count(messages) - 12, count) == [2, 3, 6, 7]
    assert drop_exchanges(messages, count(messages) - 1, count, already=[2, 3]) == [2, 3]
    assert drop_exchanges(messages, 1, count) == [2, 3, 6, 7, 8, 9]  # the head, what is protected, and the newest stay
