"""Records found in the text of other programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.context.lines import PATTERNS, LinePatterns, annotate, pieces
from erecap.context.prompt import record_text
from erecap.errors import ConfigError
from erecap.generation import Message

LINES = st.lists(
    st.sampled_from(
        ["> go to shelf 1", "Act 1: look", "Obs 1: You see", "Thought: so", "Failed: no", "", "a mug 2", "\r"]
    ),
    max_size=12,
)


def found(text: str, name: str) -> list[tuple[str, str]]:
    return [(piece.kind, text[piece.start : piece.end]) for piece in pieces(text, PATTERNS[name])]


@given(LINES, st.sampled_from(sorted(PATTERNS)), st.sampled_from(["\n", "\r\n"]))
def test_pieces_cover_the_text_in_order(lines: list[str], name: str, end: str) -> None:
    text = end.join(lines)
    cut = pieces(text, PATTERNS[name])
    place = 0
    for piece in cut:
        assert not text[place : piece.start].strip("\r\n") and piece.start <= piece.end
        place = piece.end
    assert not text[place:].strip("\r\n")


def test_react() -> None:
    text = "Question: who?\nThought 1: I look it up.\nAct 1: Search[x]\nObs 1: It is\nlong.\nThought 2:"
    kinds = ["goal", "thought", "action", "observation", "thought"]
    assert [kind for kind, _ in found(text, "react")] == kinds
    assert found(text, "react")[3] == ("observation", "Obs 1: It is\nlong.")


def test_alfworld() -> None:
    text = "You are in a room.\nYour task is to: cool a pan.\n> think: where?\nOK.\n> go to fridge 1\nIt is closed.\n>"
    assert [kind for kind, _ in found(text, "alfworld")] == [
        "observation", "goal", "thought", "observation", "action", "observation", "action",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["goal", "action", "failure", "observation"])
def test_our_own_records_are_found_again(kind: str) -> None:
    text = record_text(kind, "go to shelf 1")
    assert found(text, "erecap") == [(kind, text)]


def test_what_was_seen_again_is_stale() -> None:
    chat: list[Message] = [
        {"role": "user", "content": "Goal: find a mug 1\nYou are in a room."},
        {"role": "assistant", "content": "go to shelf 1"},
        {"role": "user", "content": "> go to shelf 1\nOn the shelf 1, you see a mug 1.\n> look\nYou see shelves."},
        {"role": "assistant", "content": "go to shelf 1"},
        {"role": "user", "content": "> go to shelf 1\nThe shelf 1 is empty.\n> look\nYou see nothing."},
    ]
    marked = annotate(chat, PATTERNS["erecap"])

    def named(number: int, key: str) -> list[str]:
        return [chat[number]["content"][a:b] for a, b in marked[number].get(key, ())]  # type: ignore[attr-defined]

    assert "observations" not in marked[0]  # the task as it was given
    assert named(2, "observations") == ["On the shelf 1, you see a mug 1.", "You see shelves."]
    # A bare command may be given in another place, where it shows something else.
    assert named(2, "stale") == ["On the shelf 1, you see a mug 1."] and "stale" not in marked[4]
    assert [message["content"] for message in marked] == [message["content"] for message in chat]
    assert annotate(marked, PATTERNS["erecap"])[2]["observations"] == marked[2]["observations"]


def test_patterns_that_are_none() -> None:
    with pytest.raises(ConfigError, match="line kind 'deed' is unknown; allowed: goal, action"):
        LinePatterns({"deed": "x"})
    with pytest.raises(ConfigError, match="a line pattern is no regular expression"):
        LinePatterns({"action": "("})
    with pytest.raises(ConfigError, match="'same' is unknown"):
        LinePatterns({"same": "x"})


def test_only_line_feeds_end_lines() -> None:
    """JSON may hold U+2028 and others as they are: what stands behind them is no line, and is not cut off."""
    told = '{"seen": "a\u2028Observation: b\x85Action: c\x0bd"}'
    text = f"{told}\r\nObservation: e\r\n"
    found = [(piece.kind, text[piece.start : piece.end]) for piece in pieces(text, PATTERNS["react"])]
    assert found == [("other", told), ("observation", "Observation: e")]
