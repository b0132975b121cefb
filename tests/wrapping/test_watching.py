"""Methods that are not shortened: a history beyond the budget is noted, and said once, with a line that works."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import erecap
from tests.wrapping.chats import chat, rows

CHAT = chat(12)


class Planner:
    """Plans by several methods; only `generate` is one that is known."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def generate(self, messages: list) -> str:
        self.sizes.append(len(json.dumps(messages)))
        return "go"

    def plan(self, messages: list) -> str:
        return self.generate_as(messages)

    async def later(self, messages: list) -> str:
        return self.generate_as(messages)

    def bit_by_bit(self, messages: list) -> Any:
        yield self.generate_as(messages)

    def generate_as(self, given: list) -> str:
        return Planner.generate(self, given)

    def inside(self, messages: list) -> str:
        return self.generate(messages)

    async def inside_later(self, messages: list) -> str:
        return self.generate(messages)

    def inside_bit_by_bit(self, messages: list) -> Any:
        yield self.generate(messages)

    def count_tokens(self, messages: list) -> int:
        return len(messages)


WAYS: dict[str, Callable[[Any, list], Any]] = {
    "plan": lambda planner, given: planner.plan(given),
    "later": lambda planner, given: asyncio.run(planner.later(messages=given)),
    "bit_by_bit": lambda planner, given: list(planner.bit_by_bit(given)),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_is_noted_and_said_once(name: str, tmp_path: Path) -> None:
    planner = erecap.wrap(Planner(), keep_tokens=80, log=tmp_path)
    with pytest.warns(UserWarning) as said:
        for _ in range(5):
            WAYS[name](planner, CHAT)
        WAYS[name](planner, CHAT[:2])
    [warning] = said
    line = f"planner.{name} = erecap.wrap(planner.{name}, keep_tokens=3000)"
    assert f"does not shorten `{name}`, which was called with" in str(warning.message) and line in str(warning.message)
    assert {row["reason"] for row in rows(tmp_path)} == {f"`{name}` is not shortened"} and planner.log.rows == 5
    whole = planner.sizes[0]
    exec(line.replace("3000", "80"), {"erecap": erecap, "planner": planner})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WAYS[name](planner, CHAT)
    assert planner.sizes[-1] < whole / 2


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_of_what_fits_or_asks_a_shortened_method(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = erecap.wrap(Planner(), keep_tokens=80)
    for _ in range(4):
        assert planner.inside(CHAT) == asyncio.run(planner.inside_later(CHAT)) == "go"
        assert list(planner.inside_bit_by_bit(CHAT)) == ["go"]
    assert max(planner.sizes) < len(json.dumps(CHAT)) / 2
    assert planner.count_tokens(CHAT) == len(CHAT) and planner.plan(CHAT[:2]) == "go" and planner.log.rows == 12
    monkeypatch.setenv("ERECAP_MODE", "full")
    planner.plan(CHAT)


class CohereOne:
    def chat(self, message: str, chat_history: list | None = None) -> Any:
        return chat_history


class CohereTwo:
    def chat(self, model: str, messages: list) -> Any:
        return messages

    def chat_stream(self, model: str, messages: list) -> Any:
        yield messages


@pytest.mark.filterwarnings("error")
def test_both_apis_of_cohere_are_shortened() -> None:
    names = {"system": "SYSTEM", "user": "USER", "assistant": "CHATBOT"}
    history = [{"role": names[one["role"]], "message": one["content"]} for one in CHAT]
    one, two = erecap.wrap(CohereOne(), keep_tokens=80), erecap.wrap(CohereTwo(), keep_tokens=80)
    shown = one.chat("Go on.", chat_history=history)
    assert len(shown) < len(history) and {tuple(message) for message in shown} == {("role", "message")}
    assert len(json.dumps(shown)) < len(json.dumps(history)) / 2
    for _ in range(4):
        [streamed] = two.chat_stream("m", CHAT)
        assert streamed == two.chat("m", CHAT) and len(streamed) < len(CHAT)
