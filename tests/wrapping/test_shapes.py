"""Messages in the shapes of several hosts are read, shortened and written back in their own shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.shapes import read_messages, write_messages


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool-response"


@dataclass
class Dataclass:  # as smolagents' ChatMessage
    role: Role
    content: Any
    tool_calls: Any = None


class Model(pydantic.BaseModel):  # as the messages of openai
    role: str
    content: str | None = None
    tool_calls: list | None = None


def parts(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


SHAPES: dict[str, Callable[[str, str], Any]] = {
    "dict": lambda role, text: {"role": role, "content": text, "name": "me"},
    "parts": lambda role, text: {"role": role, "content": parts(text)},
    "agentgym": lambda role, text: {"from": "gpt" if role == "assistant" else "human", "value": text, "loss": None},
    "dataclass": lambda role, text: Dataclass(Role(role), parts(text)),
    "pydantic": lambda role, text: Model(role=role, content=text),
    "attributes": lambda role, text: SimpleNamespace(role=role, content=text, attachment=None),  # as BALROG's
}


def said(message: Any) -> str:
    content = message.get("content", message.get("value")) if isinstance(message, dict) else message.content
    return content if isinstance(content, str) else content[0]["text"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_shortened_in_its_own_shape(shape: str) -> None:
    make = SHAPES[shape]
    messages = [make("user", "Find the mug.")]
    for turn in range(12):
        messages += [make("assistant", f"go to shelf {turn}"), make("user", f"You see that the shelf {turn} is empty.")]
    before = [said(message) for message in messages]
    shown = erecap.wrap(lambda m: m, keep_tokens=100)(messages)
    assert 3 <= len(shown) <= len(messages) and [said(m) for m in messages] == before
    assert {type(m) for m in shown} == {type(messages[0])} and sum(len(said(m)) for m in shown) <= 400
    assert shown[0] is messages[0] and shown[-1] is messages[-1]
    changed = [m for m in shown if said(m) not in before]
    assert all(said(m) == "[removed]" or said(m).startswith("see shelf") for m in changed)
    assert erecap.wrap(lambda m: m, keep_tokens=10_000)(messages) is messages


def test_several_parts_are_never_cut_and_other_parts_refused() -> None:
    two = {"role": "user", "content": parts("You see the mug.") + parts("It is there.")}
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "look"}, two]
    messages += [{"role": "assistant", "content": "look"}, {"role": "user", "content": "You see it."}]
    # It stays as it is, or goes with its exchange.
    shown = {keep: erecap.wrap(lambda m: m, keep_tokens=keep)(messages) for keep in range(1, 70)}
    assert all(two in given or len(given) == 3 for given in shown.values())
    assert two in shown[55] and two not in shown[1]
    picture = [{"role": "user", "content": [*parts("see"), {"type": "image_url", "image_url": {}}]}]
    with pytest.raises(ConfigError, match="message 0 has parts of type image_url; only text can be shortened"):
        read_messages(picture)


def test_what_is_unchanged_is_the_hosts_own() -> None:
    given = [Dataclass(Role.USER, parts("a")), Dataclass(Role.TOOL, parts("b"))]
    ours = read_messages(given)
    assert [message["role"] for message in ours] == ["user", "tool"]
    assert write_messages(ours, given) is given
    [written] = write_messages([{**ours[1], "content": "c"}], given)  # type: ignore[typeddict-item]
    assert written == Dataclass(Role.TOOL, parts("c")) and given[1].content == parts("b")


@pytest.mark.parametrize("bad", [[5], [{"role": "user"}], [{"content": "x"}], [SimpleNamespace(role=1, content="x")]])
def test_what_is_no_message(bad: list) -> None:
    with pytest.raises(ConfigError, match="message 0 must have a role and a text content"):
        read_messages(bad)
