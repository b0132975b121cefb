"""Clients of the real package `openai`, wrapped, against a server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import openai
import pytest

import erecap

WORDS = ["go to ", "shelf ", "1"]


class Handler(BaseHTTPRequestHandler):
    """Answers as `/v1/chat/completions` does, and remembers what it was sent."""

    seen: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.seen.append(body)
        head = {"id": "x", "created": 1, "model": "m"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
                 "prompt_tokens_details": {"cached_tokens": 5}}  # fmt: skip
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._send("application/json", json.dumps(whole).encode())
            return
        chunks = [
            {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}
            for word in WORDS
        ]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._send("text/event-stream", lines.encode())

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _forget() -> None:
    Handler.seen.clear()


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=url, max_retries=0)


def chat(turns: int) -> list[dict]:
    messages = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Find the mug."}]
    for turn in range(turns):
        messages += [
            {"role": "assistant", "content": f"go to shelf {turn}"},
            {"role": "user", "content": f"You see a plate {turn}, and there is nothing else on the shelf {turn}."},
        ]
    return messages


def test_a_short_chat_is_sent_as_it_is(url: str) -> None:
    bare, wrapped = client(url), erecap.wrap(client(url), keep_tokens=10_000)
    options = {"model": "m", "stop": ["\n"], "temperature": 0.0, "extra_headers": {"X-A": "b"},
               "tools": [{"type": "function", "function": {"name": "look"}}]}  # fmt: skip
    answers = [one.chat.completions.create(messages=chat(3), **options) for one in (bare, wrapped)]
    assert answers[0] == answers[1] and Handler.seen[0] == Handler.seen[1]
    assert isinstance(wrapped, openai.OpenAI) and wrapped.base_url == bare.base_url


def test_a_long_chat_is_shortened_and_noted(url: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(client(url), keep_tokens=170, log=tmp_path)
    messages = chat(0)
    for turn in range(20):
        answer = wrapped.chat.completions.create(model="m", messages=messages)
        # The answer is put into the history as the package's own object, as many hosts do.
        messages.append(answer.choices[0].message)
        messages.append({"role": "user", "content": f"You see a plate {turn}, and nothing else is on this shelf."})
    sizes = [sum(len(m["content"]) for m in body["messages"]) for body in Handler.seen]
    assert max(sizes) <= 170 * 4 and len(messages) == 42
    fronts = [before["messages"] == now["messages"][: len(before["messages"])]
              for before, now in zip(Handler.seen, Handler.seen[1:], strict=False)]  # fmt: skip
    assert sum(fronts) >= 12
    assert all(set(m) <= {"role", "content"} for m in Handler.seen[-1]["messages"])
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert rows[-1]["decision"] == "pruned" and rows[-1]["server_cached_tokens"] == 5 and rows[-1]["plan_tokens"] == 5


@pytest.mark.parametrize("way", ["iterate", "next", "with"])
def test_streams(url: str, way: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(client(url), keep_tokens=60, log=tmp_path)
    stream = wrapped.chat.completions.create(model="m", messages=chat(9), stream=True)
    assert isinstance(stream, openai.Stream)
    if way == "next":
        chunks = [next(stream), next(stream), next(stream), next(stream)]
        with pytest.raises(StopIteration):
            next(stream)
    elif way == "with":
        with stream as opened:
            chunks = list(opened)
    else:
        chunks = list(stream)
    assert [c.choices[0].delta.content for c in chunks if c.choices] == WORDS
    [row] = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert row["decision"] == "pruned" and row["plan_tokens"] == 5 and row["server_prompt_tokens"] == 7


def test_a_stream_that_is_left_is_noted_once(url: str) -> None:
    wrapped = erecap.wrap(client(url), keep_tokens=60)
    with wrapped.chat.completions.create(model="m", messages=chat(9), stream=True) as stream:
        next(stream)
    assert wrapped.log.rows == 1


def test_async_clients(url: str) -> None:
    async def talk() -> tuple[str, list[str], int]:
        async with erecap.wrap(openai.AsyncOpenAI(api_key="k", base_url=url), keep_tokens=60) as wrapped:
            whole = await wrapped.chat.completions.create(model="m", messages=chat(9))
            stream = await wrapped.chat.completions.create(model="m", messages=chat(9), stream=True)
            parts = [c.choices[0].delta.content async for c in stream if c.choices]
            return whole.choices[0].message.content, parts, wrapped.log.rows

    assert asyncio.run(talk()) == ("go to shelf 1", WORDS, 2)
    assert all(len(body["messages"]) < 20 for body in Handler.seen)


def test_what_else_a_client_has(url: str) -> None:
    wrapped = erecap.wrap(client(url), keep_tokens=60)
    raw = wrapped.chat.completions.with_raw_response.create(model="m", messages=chat(9))
    assert raw.parse().choices[0].message.content == "go to shelf 1"
    with wrapped.with_options(timeout=5.0) as other:
        other.chat.completions.create(model="m", messages=chat(9))
    assert all(len(body["messages"]) < 20 for body in Handler.seen) and wrapped.log.rows == 2
    with pytest.raises(TypeError):
        wrapped.chat.completions.create(model="m")
    with pytest.raises(openai.APIConnectionError):
        erecap.wrap(client("http://127.0.0.1:9/v1")).chat.completions.create(model="m", messages=chat(1))
