"""Messages of every kind: what cannot be shortened passes and is counted; a chat that fits is never touched."""

from __future__ import annotations

import json
from collections import UserList
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.shapes import PLACE, read_messages, write_messages
from tests.wrapping.chats import rows

LONG = "You see a plate, a cup and a note, and nothing else on the shelf. "


def call(name: str = "c1") -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "look", "arguments": '{"shelf": 1}'}}


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
KINDS: dict[str, list[Any]] = {
    "null": [{"role": "assistant", "content": None}],
    "nothing": [{"role": "user"}],
    "empty": [{"role": "user", "content": ""}, {"role": "user", "content": []}],
    "refusal": [{"role": "assistant", "content": None, "refusal": "I cannot do that."}],
    "refusal part": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    "function_call": [
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": LONG},
    ],
    "thinking": [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "go"},
            ],
        }
    ],
    "tool_use": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": LONG}]},
    ],
    "tool_use with a picture": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}]},
    ],
    "picture": [
        {"role": "user", "content": [PICTURE]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]},
    ],
    "sound": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}],
    "sound that was said": [{"role": "assistant", "content": None, "audio": {"id": "a"}}],
    "file": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
    "custom tool": [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": LONG},
    ],
    "late system": [{"role": "system", "content": "A late rule."}, {"role": "developer", "content": "Another."}],
    "orphan result": [{"role": "tool", "tool_call_id": "gone", "content": LONG}],
    "parallel calls": [
        {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": LONG},
        {"role": "tool", "tool_call_id": "b", "content": LONG},
    ],
    "parts of a tool": [
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": LONG}]},
    ],
    "another role": [{"role": "critic", "content": LONG}],
    "reasoning field": [{"role": "assistant", "content": "go", "reasoning_content": "hm", "tool_calls": []}],
    "numbers": [{"role": "user", "content": 5}, {"role": "user", "content": {"see": "mug"}}],
    "items": [
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": LONG},
        {"type": "computer_call_output", "call_id": "d", "output": {"type": "computer_screenshot"}},
        {"type": "item_reference", "id": "x"},
    ],
    "objects": [SimpleNamespace(role="assistant", content=None, tool_calls=None, refusal="no")],
    "pairs": [("human", LONG), ("ai", "go")],
    "bedrock": [
        {"role": "user", "content": [{"image": {"format": "png"}}]},
        {"role": "user", "content": [{"text": LONG}]},
    ],
}  # fmt: skip
GOAL: list[Any] = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Find the mug."}]


def turns(number: int) -> list[Any]:
    found: list[Any] = []
    for turn in range(number):
        found += [{"role": "assistant", "content": f"look {turn}"}, {"role": "user", "content": LONG * 2}]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"keep_tokens": 100_000}, {"keep": 1.0}], ids=["budget", "share"])
def test_a_chat_that_fits_is_the_very_chat(kind: str, options: dict, tmp_path: Path) -> None:
    for messages in (KINDS[kind], [*GOAL, *KINDS[kind]], [*KINDS[kind], *GOAL, *KINDS[kind]]):
        before = repr(messages)
        assert erecap.wrap(lambda m: m, **options, log=tmp_path)(messages) is messages and repr(messages) == before
    assert {row["decision"] for row in rows(tmp_path)} == {"passed"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"keep_tokens": 120}, {"keep": 0.4}], ids=["budget", "share"])
def test_a_chat_that_does_not_fit_keeps_what_it_cannot_shorten(kind: str, options: dict) -> None:
    messages = [*GOAL, *turns(3), *KINDS[kind], *turns(6)]
    before = repr(messages)
    shown = erecap.wrap(lambda m: m, **options)(messages)
    assert len(repr(shown)) < len(before) == len(repr(messages)) and before == repr(messages)
    assert shown[:2] == GOAL and shown[-1] is messages[-1]
    changed = [one for one in shown if not any(one is other for other in messages)]
    assert all(any(_shorter(one, other) for other in messages) for one in changed)
    called, answered = pairs(shown)
    had, found = pairs(messages)
    assert called == answered | (had - found) or called - (had - found) == answered - (found - had)
    # What is no text is shown as it is, or goes with its whole exchange; a late rule stays.
    assert not any("PNG" in repr(one).upper() or "audio" in repr(one) for one in changed)
    assert all(message in shown for message in messages if "late rule" in repr(message))


def _shorter(one: Any, other: Any) -> bool:
    """The same message with less in one text of it."""
    if not isinstance(one, type(other)):
        return False
    if isinstance(one, str):
        return "see" in other and len(one) < len(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            one[key] == other[key] or _shorter(one[key], other[key]) for key in one
        )
    return len(one) == len(other) and all(a == b or _shorter(a, b) for a, b in zip(one, other, strict=True))


def pairs(messages: list[Any]) -> tuple[set[str], set[str]]:
    """Ids of the calls, and of their results."""
    called, answered = set(), set()
    for message in messages:
        if not isinstance(message, dict):
            continue
        called |= {one["id"] for one in message.get("tool_calls") or []}
        answered |= {message[key] for key in ("tool_call_id",) if key in message}
        if message.get("type") == "function_call":
            called.add(message["call_id"])
        if message.get("type") == "function_call_output":
            answered.add(message["call_id"])
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            called |= {part["id"]} if part.get("type") == "tool_use" else set()
            answered |= {part["tool_use_id"]} if part.get("type") == "tool_result" else set()
    return called, answered


@pytest.mark.parametrize(
    ("kind", "whole"),
    [("picture", 2), ("thinking", 1), ("null", 1), ("sound", 1), ("tool_use", 0), ("parts of a tool", 0), ("pairs", 0)],
)
def test_messages_that_cannot_be_shortened_are_counted(kind: str, whole: int, tmp_path: Path) -> None:
    erecap.wrap(lambda m: "x", keep_tokens=10_000, log=tmp_path)([*GOAL, *KINDS[kind]])
    assert rows(tmp_path)[0].get("whole_messages", 0) == whole


def test_a_result_of_a_tool_is_shortened_in_its_own_shape() -> None:
    for kind in ("tool_use", "parts of a tool", "items", "bedrock"):
        ours = read_messages(KINDS[kind], strict=False)
        changed = [{**one, "content": "[removed]"} if one["content"] == LONG else one for one in ours]
        written = write_messages(changed, KINDS[kind])  # type: ignore[arg-type]
        text = json.dumps(written)
        assert "[removed]" in text and LONG not in text and json.dumps(KINDS[kind]) != text
        assert text.replace("[removed]", LONG) == json.dumps(KINDS[kind])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*sorted(KINDS), "turn"]), max_size=12), st.integers(1, 400))
def test_chats_of_any_kinds_never_fail(kinds: list[str], most: int) -> None:
    messages = [*GOAL]
    for kind in kinds:
        messages += turns(1) if kind == "turn" else KINDS[kind]
    ours = read_messages(messages, strict=False)
    assert [message[PLACE] for message in ours] == list(range(len(messages)))  # type: ignore[literal-required]
    assert write_messages(ours, messages) is messages
    wrapped = erecap.wrap(lambda m: m, keep_tokens=most)
    for end in range(2, len(messages) + 1):
        shown = wrapped(messages[:end])
        assert shown[:2] == GOAL and len(shown) <= end


ODD: list[Any] = [{"content": "q"}, {"type": "message", "content": "q"}, {"role": 3, "content": "q"}, None, 7, object()]


@pytest.mark.parametrize("odd", ODD)
def test_a_message_without_a_role_passes_with_its_chat(odd: Any, tmp_path: Path) -> None:
    for most, name in ((10_000, "fits"), (60, "over")):
        messages = [*GOAL, odd, *turns(6)]
        wrapped = erecap.wrap(lambda m: m, keep_tokens=most, log=tmp_path / name)
        assert wrapped(messages) is messages
        [row] = rows(tmp_path / name)
        assert row["decision"] == "passed" and row["whole_messages"] == 1 and row["prompt_tokens"] > 60
        why = "it fits" if most > 60 else "message 2 has no role, so that nothing of this chat is left out"
        assert row["reason"] == why
    erecap.wrap(SimpleNamespace(generate=lambda messages: messages), keep_tokens=60).generate([*GOAL, odd, *turns(6)])


def test_a_list_without_a_message_is_still_an_error() -> None:
    with pytest.raises(ConfigError, match="message 0 must have a role and a text content, got 7"):
        erecap.wrap(lambda m: m, keep_tokens=60)([7, {"content": "x"}])


@pytest.mark.parametrize("key", ["protect", "stale", "observations"])
@pytest.mark.parametrize("spans", ["yes", [["a"]], [(0, "b")], 5, [3]], ids=repr)
def test_spans_of_an_odd_shape_are_one_line(key: str, spans: Any) -> None:
    messages = [*GOAL, {"role": "user", "content": LONG, key: spans}, *turns(6)]
    assert erecap.wrap(lambda m: m, keep_tokens=10_000)(messages) is messages
    with pytest.raises(ConfigError, match=rf"message 2: {key} must be a list of \(start, end\), got "):
        erecap.wrap(lambda m: m, keep_tokens=60)(messages)


def test_a_message_that_holds_itself_is_counted() -> None:
    circle: dict[str, Any] = {"role": "assistant", "content": "look"}
    circle["self"] = circle
    assert len(erecap.wrap(lambda m: m, keep_tokens=60)([*GOAL, circle, *turns(6)])) < 15


class Chat(list):
    """A host's own list."""


class Made(Chat):
    """One whose constructor wants more than a list."""

    def __init__(self, messages: list, *, name: str) -> None:
        super().__init__(messages)


@pytest.mark.parametrize("kind", [list, tuple, UserList, Chat, Made])
def test_a_chat_arrives_in_the_kind_of_list_that_it_was(kind: Any) -> None:
    options = {"name": "n"} if kind is Made else {}
    given = kind([*GOAL, *turns(6)], **options)
    shown = erecap.wrap(lambda m: m, keep_tokens=60)(given)
    assert type(shown) is (list if kind is Made else kind) and len(shown) < len(given)
    model = SimpleNamespace(generate=lambda messages: messages)
    assert len(erecap.wrap(model, keep_tokens=60).generate(messages=given)) == len(shown)


def test_calls_over_their_budget_that_nobody_can_shorten_are_said_once() -> None:
    wrapped = erecap.wrap(lambda m: "x", keep_tokens=20)
    pictures = [*GOAL, {"role": "user", "content": [{"type": "text", "text": LONG * 4}, PICTURE]}]
    wrapped(pictures), wrapped(pictures)
    with pytest.warns(UserWarning, match=r"erecap\.wrap has shortened none of 3 calls that were over their budget"):
        wrapped(pictures)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["fits", "shortened", "off"])
def test_nothing_is_said_where_calls_fit_or_are_shortened(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "off":
        monkeypatch.setenv("ERECAP_MODE", "full")
    wrapped = erecap.wrap(lambda m: "x", keep_tokens=10_000 if case == "fits" else 60)
    for number in range(1, 9):
        wrapped([*GOAL, *turns(number)])
