"""Time limits: of requests, of clients that are slow or gone, and of a server that is told to end."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from erecap.context.tokenize import render_chat
from erecap.serving.app import create_app
from erecap.serving.connections import BoundedProtocol, SlowBodies
from erecap.serving.engine import Ask, Engine
from erecap.serving.failures import ApiFailure
from erecap.serving.store import Request
from erecap.serving.tools import as_text
from erecap.session.conversation.chat import whole_part
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.fuzz.hostile import CHAT, Shot
from tests.fuzz.server_requests import WINDOW, Target
from tests.session.chats import model, start, turn

LONG = [*start(), *(message for number in range(12) for message in turn("go to shelf", number))]


class Passes:
    """Counts forward passes of a model, and does something at one of them."""

    def __init__(self, at: int, then: Any) -> None:
        self.count, self._at, self._then = 0, at, then
        self._hook = model().get_decoder().layers[0].register_forward_pre_hook(self._pass)

    def _pass(self, *given: object) -> None:
        self.count += 1
        if self.count == self._at:
            self._then()

    def remove(self) -> None:
        self._hook.remove()


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_a_prefill_ends_between_chunks_and_keeps_what_it_has_read(way: str) -> None:
    tokenizer, asked = byte_level(), []

    def gone() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    session = ReplanSession(model(), tokenizer, prefill_chunk=32, retokenize=True)
    ends: dict[str, Any] = {"cancel": gone} if way == "cancel" else {"deadline_ms": 0.0}
    made = session.generate(LONG, max_new_tokens=8, **ends)
    assert (made.text, made.finish_reason) == ("", "cancelled" if way == "cancel" else "deadline")
    read = 96 if way == "cancel" else 32
    assert read - 32 < session.conversation.transcript.tokens <= read  # up to the end of a message
    again = session.generate(LONG, max_new_tokens=8)
    assert again.usage.reused_tokens > read - 32
    assert again.text == ReplanSession(model(), tokenizer).generate(LONG, max_new_tokens=8).text


def test_a_client_that_hangs_up_ends_a_prefill_within_a_chunk() -> None:
    made = model()
    on = Engine(made, byte_level(), lambda: ReplanSession(made, byte_level(), prefill_chunk=16))
    ask = Ask(LONG, {"max_new_tokens": 8})  # type: ignore[arg-type]
    passes = Passes(3, ask.given_up.set)
    try:
        on.submit(ask)
        assert ask.answer.result(60).finish_reason == "cancelled"
    finally:
        passes.remove()
    assert passes.count == 3 and on.store.busy == 0
    on.close()


def test_a_deadline_in_a_prefill_is_a_504_within_a_chunk() -> None:
    made = model()
    on = Engine(made, byte_level(), lambda: ReplanSession(made, byte_level(), prefill_chunk=16), request_s=0.5)
    passes = Passes(2, lambda: time.sleep(0.6))
    ask = Ask(LONG, {"max_new_tokens": 8})  # type: ignore[arg-type]
    try:
        on.submit(ask)
        with pytest.raises(ApiFailure, match=r"longer than 0\.5 s") as caught:
            ask.answer.result(60)
    finally:
        passes.remove()
    assert caught.value.status == 504 and passes.count == 2 and on.store.busy == 0
    on.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_a_client_that_is_gone_ends_decoding(stream: bool, tools: bool) -> None:
    target = Target(kv_tokens=None)
    tool = {"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": start(),
        "max_tokens": 300,
        "min_tokens": 300,
        "stream": stream,
    }
    body |= {"tools": [tool]} if tools else {}
    slow = model(window=WINDOW).get_decoder().layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.01))
    asks: list[Ask] = []
    submit = target.engine.submit
    target.engine.submit = lambda ask: (asks.append(ask), submit(ask))[1]  # type: ignore[method-assign, assignment]

    async def gone() -> None:
        await target.ask(Shot(CHAT, json.dumps(body).encode(), hang_up=0))
        await target.settled()

    try:
        asyncio.run(gone())
    finally:
        slow.remove()
        target.close()
    assert asks[0].answer.result().usage.completion_tokens < 300
    assert target.engine.store.busy == 0


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_the_queue_end_their_requests_without_a_traceback(stream: bool) -> None:
    target, release = Target(), threading.Event()
    body = {"model": "tiny", "messages": start(), "max_tokens": 2, "stream": stream}
    shot = Shot(CHAT, json.dumps(body).encode())
    hook = model(window=WINDOW).get_decoder().layers[0].register_forward_pre_hook(lambda *_: release.wait(60) and None)

    async def queue() -> list[Any]:
        asked = [asyncio.ensure_future(target.ask(shot)) for _ in range(3)]
        while target.engine.running + target.engine.waiting < 3:  # the model stands still in a pass of the first
            await asyncio.sleep(0.01)
        asked += [asyncio.ensure_future(target.ask(replace(shot, hang_up=0))) for _ in range(4)]
        gone = asked[3:]
        while not all(one.done() for one in gone) and len(asked) < 30:
            # Every request that comes throws those out of the queue that have gone; some may not be in it yet.
            asked.append(asyncio.ensure_future(target.ask(shot)))
            await asyncio.wait(gone, timeout=0.5)
        assert all(one.done() for one in gone) and not release.is_set()
        release.set()
        return await asyncio.gather(*asked)

    try:
        statuses = [status for status, _ in asyncio.run(queue())]
    finally:
        release.set()
        hook.remove()
        target.close()
    assert statuses == [200] * 3 + [499] * 4 + [200] * (len(statuses) - 7)


def test_a_request_that_waits_too_long_is_told_so_in_time(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(at_once=1, request_s=1.0)
    release = threading.Event()
    hook = (
        server.engine.pool.model.get_decoder().layers[0].register_forward_pre_hook(lambda *_: release.wait(20) and None)
    )
    first = threading.Thread(
        target=lambda: httpx.post(
            f"{server.url}{CHAT}", timeout=60, json={"model": "tiny", "messages": start(), "max_tokens": 2}
        ),
        daemon=True,
    )
    try:
        first.start()
        while not server.engine.running:
            time.sleep(0.01)
        with pytest.raises(openai.InternalServerError, match="longer than it may take"):
            server.client(timeout=30).chat.completions.create(model="tiny", messages=start(), max_tokens=2)
        assert server.engine.running == 1 and server.engine.waiting == 0  # the model is still at the first
    finally:
        release.set()
        first.join(30)
        hook.remove()


def test_a_server_that_is_to_end_refuses_what_waits_and_finishes_what_runs(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(at_once=1)
    slow = server.engine.pool.model.get_decoder().layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.02))
    stream = server.client().chat.completions.create(
        messages=start(), model="tiny", max_tokens=80, temperature=0, stream=True
    )
    next(stream)
    found: list[int] = []

    def wait() -> None:
        try:
            server.client(timeout=60).chat.completions.create(messages=start(), model="tiny", max_tokens=4)
        except openai.APIStatusError as error:
            found.append(error.status_code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not server.engine.waiting:
        time.sleep(0.01)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    waiting.join(30)
    assert found == [503]
    rest = [chunk.choices[0] for chunk in stream if chunk.choices]
    assert rest[-1].finish_reason in ("length", "stop")
    stopping.join(30)
    slow.remove()
    assert not server.engine.thread.is_alive()


# Slow clients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nX-Second: ",  # on a connection that was used
    ],
)
def test_slow_headers_end_the_connection(serve, monkeypatch, sent: bytes) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(BoundedProtocol, "headers_s", 0.4)
    server = serve()
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=20) as connection:
        connection.sendall(sent)
        began, answered = time.monotonic(), b""
        connection.settimeout(0.05)
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"x")  # one byte at a time keeps no connection open
                got = connection.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                break
            if not got:
                break
            answered += got
        assert time.monotonic() - began < 20
    assert (b"200 OK" in answered) == (b"health" in sent)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_slow_bodies_are_refused() -> None:
    target = Target()
    app = SlowBodies(create_app(target.engine, "tiny"), most_s=0.2)
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    target.close()
    assert sent[0]["status"] == 408
    assert "the body took longer than 0.2 s" in json.loads(sent[1]["body"])["error"]["message"]


# Work, not time -----------------------------------------------------------------------------------------------


class Counted(str):
    """A text that counts the characters that searches in it look at."""

    looked = 0

    def find(self, *given: Any) -> int:  # type: ignore[override]
        at = super().find(*given)
        begin = given[1] if len(given) > 1 else 0
        Counted.looked += (at if at >= 0 else len(self)) - begin
        return at


class Counting:
    """A tokenizer whose rendered texts are counted."""

    def __init__(self) -> None:
        self._inner = byte_level()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def apply_chat_template(self, *given: Any, **options: Any) -> str:
        return Counted(self._inner.apply_chat_template(*given, **options))


def work(messages: int) -> tuple[int, int]:
    """Calls and searched characters of what a server does with a chat before the model reads it."""
    chat = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(messages)]
    calls, Counted.looked = 0, 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    session = ReplanSession(model(), byte_level(), retokenize=True)
    sys.setprofile(count)
    try:
        read = as_text(chat, [])
        Request(read)
        render_chat(read, Counting())
        part = whole_part(read, byte_level(), True)
        known = session.conversation.match(part)
        _, marks = session.conversation.unread(part, known)
        session.conversation.protected_tokens(part, marks)
    finally:
        sys.setprofile(None)
    return calls, Counted.looked


def test_the_work_for_a_chat_grows_with_its_messages_and_no_faster() -> None:
    work(20)  # what is done once for a template
    (calls, looked), (twice, looked_twice) = work(400), work(800)
    assert twice < 2.1 * calls
    assert looked_twice <= 2.2 * looked
