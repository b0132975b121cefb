"""All the ways in which clients of the packages `openai` and `anthropic` are asked: each is shortened and measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

import erecap
from erecap.errors import ConfigError
from tests.wrapping.chats import chat, rows
from tests.wrapping.scripted_server import Script, scripted

CHAT = chat(12)
PLATE = "A plate {0}, and nothing else. A plate {0}, and nothing else. A plate {0}, and nothing else but dust."
ASK: dict[str, Any] = {"model": "m", "messages": CHAT}


class Place(pydantic.BaseModel):
    shelf: int


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted(Script()) as running:
        yield running


def items(turns: int) -> list[dict[str, Any]]:
    """A history of the Responses API: reasoning, calls, what came of them."""
    found: list[dict[str, Any]] = [{"role": "developer", "content": "Plan."}, {"role": "user", "content": "Find it."}]
    for turn in range(turns):
        found += [
            {"type": "reasoning", "id": f"r{turn}", "summary": []},
            {"type": "function_call", "call_id": f"c{turn}", "name": "look", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": f"c{turn}",
                "output": f"A plate {turn}, and nothing else. " * 4,
            },
        ]
    return found


def test_a_chat_in_the_body_of_a_request_is_shortened(script: Script) -> None:
    client = openai.OpenAI(base_url=script.url, api_key="k", max_retries=0)
    wrapped = erecap.wrap(client, keep_tokens=80)
    kind = openai.types.chat.ChatCompletion
    wrapped.post("/chat/completions", body=ASK, cast_to=kind)
    wrapped.chat.completions.create(model="m", messages=[], extra_body={"messages": CHAT, "seed": 7})
    assert len(ASK["messages"]) == len(CHAT) and script.seen[1]["seed"] == 7
    assert all(1 < len(body["messages"]) < len(CHAT) for body in script.seen)
    assert wrapped.log.rows == 2
    wrapped.post("/chat/completions", body={"model": "m"}, cast_to=kind)
    assert script.seen[2] == {"model": "m"} and wrapped.log.rows == 2


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_a_part_of_a_client_is_refused_with_the_line_that_works(kind: Any) -> None:
    client = kind(base_url="http://127.0.0.1:9/v1", api_key="k")
    with pytest.raises(ConfigError, match=r"is a part of a client; wrap the client, and .*: client = erecap\.wrap\(cl"):
        erecap.wrap(client.chat, keep_tokens=80)
    assert erecap.wrap(client, keep_tokens=80).chat.completions.create


def streamed(client: Any) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content


def final_only(client: Any) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        stream.get_final_completion()


def raw_stream(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(stream=True, **ASK)
    assert isinstance(raw.parse(), openai.Stream) and list(raw.parse())


def streaming_response(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert response.parse().choices[0].message.content


def lines_of_a_response(client: Any) -> None:
    with client.with_streaming_response.chat.completions.create(**ASK) as response:
        assert list(response.iter_lines())


def responses_stream(client: Any) -> None:
    stream = client.responses.create(model="m", input=items(12), stream=True)
    assert [event.type for event in stream][-1] == "response.completed"


def responses_opened(client: Any) -> None:
    with client.responses.stream(model="m", input=items(12)) as stream:
        assert list(stream)


WAYS: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.chat.completions.create(**ASK),
    "parse": lambda c: c.chat.completions.parse(response_format=Place, **ASK),
    "beta parse": lambda c: c.beta.chat.completions.parse(response_format=Place, **ASK),
    "stream": streamed,
    "stream, the end of it": final_only,
    "raw": lambda c: c.chat.completions.with_raw_response.create(**ASK).parse(),
    "raw, of the client": lambda c: c.with_raw_response.chat.completions.create(**ASK).parse(),
    "raw stream": raw_stream,
    "streaming response": streaming_response,
    "streaming response, its lines": lines_of_a_response,
    "options": lambda c: c.with_options(timeout=9).chat.completions.create(**ASK),
    "copy": lambda c: c.copy(timeout=9).chat.completions.create(**ASK),
    "responses": lambda c: c.responses.create(model="m", input=items(12)),
    "responses raw": lambda c: c.responses.with_raw_response.create(model="m", input=items(12)).parse(),
    "responses stream": responses_stream,
    "responses opened": responses_opened,
}
UNSEEN = {"streaming response, its lines"}  # the host reads bytes, whose words nobody tells


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_shortened_and_measured(way: str, script: Script, tmp_path: Path) -> None:
    script.text = '{"shelf": 11}'
    client = openai.OpenAI(api_key="k", base_url=script.url, max_retries=0)
    WAYS[way](client)
    WAYS[way](erecap.wrap(client, keep_tokens=100_000))
    wrapped = erecap.wrap(client, keep_tokens=80, log=tmp_path)
    WAYS[way](wrapped)
    bare, whole, less = script.seen
    assert whole == bare and len(json.dumps(less)) < 0.6 * len(json.dumps(bare))
    [row] = rows(tmp_path)
    assert row["decision"] == "pruned" and (row["plan_tokens"] > 0) == (way not in UNSEEN)
    assert wrapped.log.rows == 1 and isinstance(wrapped, openai.OpenAI)


@pytest.mark.parametrize("kind", ["openai", "azure"])
def test_asynchronous_clients(kind: str, script: Script, tmp_path: Path) -> None:
    options = {"api_key": "k", "max_retries": 0}
    if kind == "azure":
        bare: Any = openai.AsyncAzureOpenAI(azure_endpoint=script.url, api_version="2024-10-21", **options)  # type: ignore[call-overload]
    else:
        bare = openai.AsyncOpenAI(base_url=script.url, **options)  # type: ignore[arg-type]
    wrapped = erecap.wrap(bare, keep_tokens=80, log=tmp_path)

    async def talk() -> None:
        await wrapped.chat.completions.create(**ASK)
        assert [chunk async for chunk in await wrapped.chat.completions.create(stream=True, **ASK)]
        async with wrapped.chat.completions.stream(**ASK) as stream:
            assert [event async for event in stream]
        raw = await wrapped.with_raw_response.chat.completions.create(**ASK)
        assert raw.parse().choices
        async with wrapped.chat.completions.with_streaming_response.create(**ASK) as response:
            assert (await response.parse()).choices
        await wrapped.responses.create(model="m", input=items(12))
        async with wrapped.responses.stream(model="m", input=items(12)) as stream:
            assert [event async for event in stream]

    asyncio.run(talk())
    noted = rows(tmp_path)
    assert len(noted) == 7 == len(script.seen) and isinstance(wrapped, type(bare))
    assert all(row["decision"] == "pruned" and row["plan_tokens"] and row["server_cached_tokens"] for row in noted)


def test_a_history_of_responses_keeps_calls_beside_what_came_of_them(script: Script) -> None:
    wrapped = erecap.wrap(openai.OpenAI(api_key="k", base_url=script.url), keep_tokens=200)
    wrapped.responses.create(model="m", input=items(12))
    sent = script.seen[0]["input"]
    calls = [item["call_id"] for item in sent if item.get("type") == "function_call"]
    assert calls == [item["call_id"] for item in sent if item.get("type") == "function_call_output"]
    assert len([item for item in sent if item.get("type") == "reasoning"]) == len(calls) < 12
    assert sent[:2] == items(0) and sent[-1] == items(12)[-1]


def test_a_history_that_the_server_keeps_passes(script: Script, tmp_path: Path) -> None:
    wrapped = erecap.wrap(openai.OpenAI(api_key="k", base_url=script.url), keep_tokens=10, log=tmp_path)
    wrapped.responses.create(model="m", input=items(12), previous_response_id="r")
    assert script.seen[0]["input"] == items(12) and rows(tmp_path)[0]["decision"] == "passed"


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None}, {"prompt_tokens": "x"}, {"prompt_tokens": -1}, 5])
def test_odd_counts_of_a_server_never_cost_an_answer(usage: Any, tmp_path: Path) -> None:
    class Client:
        class chat:
            class completions:
                @staticmethod
                def create(*, messages: list) -> dict:
                    return {"choices": [{"message": {"content": "go on"}}], "usage": usage}

    wrapped = erecap.wrap(Client(), keep_tokens=80, log=tmp_path)
    assert wrapped.chat.completions.create(messages=CHAT)["usage"] is usage
    assert "server_prompt_tokens" not in rows(tmp_path)[0]


def tool_chat(turns: int) -> list[dict[str, Any]]:
    """A chat as Anthropic has it: thinking, tools, and their results as messages of the user."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Find the mug."}]
    for turn in range(turns):
        use = {"type": "tool_use", "id": f"t{turn}", "name": "look", "input": {"shelf": turn}}
        thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
        result = {
            "type": "tool_result",
            "tool_use_id": f"t{turn}",
            "content": f"A plate {turn}, and nothing else. " * 4,
        }
        messages += [{"role": "assistant", "content": [thought, use]}, {"role": "user", "content": [result]}]
    return messages


def anthropic_opened(client: Any) -> None:
    with client.messages.stream(model="m", max_tokens=9, messages=tool_chat(12)) as stream:
        assert "".join(stream.text_stream)


ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.messages.create(model="m", max_tokens=9, messages=tool_chat(12)),
    "stream": lambda c: list(c.messages.create(model="m", max_tokens=9, messages=tool_chat(12), stream=True)),
    "opened": anthropic_opened,
    "raw": lambda c: c.messages.with_raw_response.create(model="m", max_tokens=9, messages=tool_chat(12)).parse(),
    "beta": lambda c: c.beta.messages.create(model="m", max_tokens=9, messages=tool_chat(12)),
}


@pytest.mark.parametrize("way", ANTHROPIC)
def test_clients_of_anthropic(way: str, script: Script, tmp_path: Path) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(api_key="k", base_url=script.url.removesuffix("/v1"), max_retries=0)
    ANTHROPIC[way](client)
    wrapped = erecap.wrap(client, keep_tokens=200, log=tmp_path)
    ANTHROPIC[way](wrapped)
    bare, less = (body["messages"] for body in script.seen)
    assert len(json.dumps(less)) < 0.6 * len(json.dumps(bare)) and less[0] == bare[0] and less[-1] == bare[-1]
    uses = [part["id"] for message in less for part in message["content"] if part_of(part) == "tool_use"]
    results = [part["tool_use_id"] for message in less for part in message["content"] if part_of(part) == "tool_result"]
    assert uses == results and [message["role"] for message in less[1:]] == ["assistant", "user"] * (len(less) // 2)
    [row] = rows(tmp_path)
    assert row["decision"] == "pruned" and row["plan_tokens"] > 0 and row["server_cached_tokens"] == 5


def part_of(part: Any) -> str | None:
    return part.get("type") if isinstance(part, dict) else None
