"""Conversations over several servers: each stays with one, and goes on where that one is lost."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from erecap.errors import ConfigError
from erecap.serving.affinity import HashRing, conversation_of, conversation_of_body
from erecap.serving.background import running
from erecap.serving.proxy import create_proxy
from erecap.serving.replicas import open_replicas
from erecap.wrapping.calls import TextCalls, TextOptions
from erecap.wrapping.log import CallLog
from tests.serving.conftest import Server
from tests.serving.recorded import ASKED, Behind
from tests.session.chats import start, turn

GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0.0, "max_tokens": 6}
NAMES = [f"http://replica-{number}:8000/v1" for number in range(4)]


def test_a_lost_server_moves_its_own_conversations_only() -> None:
    keys = [f"conversation {number}" for number in range(2000)]
    before, after = HashRing(NAMES), HashRing(NAMES[:3])
    owners = Counter(before.order(key)[0] for key in keys)
    assert len(owners) == 4 and min(owners.values()) > 250
    for key in keys:
        order = before.order(key)
        assert sorted(order) == [0, 1, 2, 3]
        assert after.order(key) == [number for number in order if number != 3]
    assert HashRing(NAMES[::-1]).order("x") == [3 - number for number in before.order("x")]  # names count, not places


def test_a_conversation_keeps_its_key_as_it_grows() -> None:
    chat: list[Any] = [*start()]
    keys = {conversation_of({"messages": [*chat, *turn("look", number)]}) for number in range(3)}
    assert keys == {conversation_of({"messages": chat})} != {""}
    other = [chat[0], {"role": "user", "content": "Goal: another"}]
    assert conversation_of({"messages": other}) not in keys
    assert conversation_of({"messages": other, "prompt_cache_key": "a"}) == conversation_of({"prompt_cache_key": "a"})
    text = "x" * 300
    assert conversation_of({"prompt": text}) == conversation_of({"prompt": text + "more"})
    ids = list(range(300))  # a text as tokens
    assert conversation_of({"prompt": ids}) == conversation_of({"prompt": [*ids, 7]})
    assert conversation_of({"prompt": ids}) != conversation_of({"prompt": ids[1:]})
    assert conversation_of({"input": chat, "instructions": "a"}) != conversation_of({"input": chat})
    assert conversation_of_body(b"no JSON") == conversation_of_body(b"[1]") == conversation_of({"prompt": 3}) == ""
    assert conversation_of_body(json.dumps({"messages": chat}).encode()) in keys


@contextmanager
def proxy(*urls: str, **options: Any) -> Iterator[str]:
    calls = TextCalls(TextOptions(keep_tokens=None), CallLog(None, "proxy", "compact"))
    with running(create_proxy(urls, calls, **options)) as url:
        yield url


def test_conversations_stay_with_a_server_and_outlive_it() -> None:
    servers, chats = [Server(), Server()], [[*start(), *turn("begin", number)] for number in range(8)]
    for number, chat in enumerate(chats):
        chat[1] = {**chat[1], "content": f"{chat[1]['content']} {number}"}  # goals differ
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:
            client = openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)

            def ask(chat: list[Any]) -> Any:
                return client.chat.completions.create(messages=chat, **GREEDY)

            def grown(chat: list[Any], said: Any) -> list[Any]:
                return [*chat, *turn(said.choices[0].message.content, 5)]

            with ThreadPoolExecutor(8) as clients:
                first = list(clients.map(ask, chats))
            second = [ask(grown(chat, said)) for chat, said in zip(chats, first, strict=True)]
            assert all(said.usage.prompt_tokens_details.cached_tokens > 40 for said in second)
            servers.sort(key=lambda server: len(server.engine.store))
            read = [len(server.engine.store) for server in servers]
            assert sum(read) == len(chats)
            servers.pop().stop()
            third = [ask(grown(chat, said)) for chat, said in zip(chats, first, strict=True)]
            assert [said.choices[0].message.content for said in third] == [
                said.choices[0].message.content for said in second
            ]
            health = httpx.get(f"{url}/health").json()
            assert (health["status"], health["replicas"], health["moved"]) == ("ok", 2, read[1])
    finally:
        for server in servers:
            server.stop()


def answer(text: bytes, length: int | None = None, status: bytes = b"200 OK") -> bytes:
    size = b"%d" % (len(text) if length is None else length)
    return b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: " + size + b"\r\n\r\n" + text


@pytest.mark.parametrize(
    "broken",
    [b"", answer(b'{"half', 400), answer(b'{"error": {}}', status=b"503 Service Unavailable")],
    ids=["no answer", "broken off", "busy"],
)
def test_the_next_server_answers_in_the_place_of_one_that_cannot(broken: bytes) -> None:
    servers = [Behind(), Behind()]
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:
            for bad, good in (servers, servers[::-1]):  # whichever the conversation is of
                bad.answer, good.answer = broken, answer(b'{"good": 1}')
                got = httpx.post(f"{url}/v1/chat/completions", json=ASKED, timeout=20)
                assert (got.status_code, got.json()) == (200, {"good": 1})
            for server in servers:
                server.answer = broken
            failed = httpx.post(f"{url}/v1/chat/completions", json=ASKED, timeout=20)
            assert failed.status_code == (503 if b"503" in broken else 502)
    finally:
        for server in servers:
            server.close()


def test_a_stream_that_breaks_off_ends_with_an_error_and_is_asked_elsewhere() -> None:
    servers = [Behind(), Behind()]
    half = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 900\r\n\r\ndata: {}\n\n"
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:
            for server in servers:
                server.answer = half
            body = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "stream": True}, timeout=20).text
            assert body.startswith("data: {}\n\n") and "broke off" in body
            for server in servers:
                server.answer = b""
            body = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "stream": True}, timeout=20)
            assert body.status_code == 502
    finally:
        for server in servers:
            server.close()


def test_a_server_whose_stream_breaks_off_is_left_out_for_a_while() -> None:
    servers = [Behind(), Behind()]
    half = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 900\r\n\r\ndata: {}\n\n"
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:

            def asked() -> str:
                sent = {**ASKED, "stream": True}
                return httpx.post(f"{url}/v1/chat/completions", json=sent, timeout=20).text

            for server in servers:
                server.answer = half
            assert "broke off" in asked()
            assert httpx.get(f"{url}/health").json()["lost"] == 1
            [own] = [server for server in servers if server.head]
            for server in servers:
                server.answer = answer(b"own" if server is own else b"other")
            assert asked() == "other"
    finally:
        for server in servers:
            server.close()


def test_where_one_is_busy_and_one_is_lost_clients_may_ask_again() -> None:
    servers = [Behind(), Behind()]
    servers[0].answers(b"{}", status=b"503 Service Unavailable")
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:
            for _ in range(2):  # the second time the lost one is asked last, whichever the conversation belongs to
                assert httpx.post(f"{url}/v1/chat/completions", json=ASKED, timeout=20).status_code == 503
    finally:
        for server in servers:
            server.close()


def test_a_name_in_the_header_keeps_requests_together() -> None:
    servers = [Behind() for _ in range(3)]
    for server in servers:
        server.answers(server.url.encode())
    try:
        with proxy(*(f"{server.url}/v1" for server in servers)) as url:

            def asked(name: str | None, number: int) -> str:
                sent = {**ASKED, "messages": [{"role": "user", "content": f"goal {number}"}]}
                headers = {} if name is None else {"X-Session-Id": name}
                return httpx.post(f"{url}/v1/chat/completions", json=sent, headers=headers, timeout=20).text

            assert len({asked("robot 7", number) for number in range(6)}) == 1
            assert len({asked(None, number) for number in range(12)}) > 1
            assert len({httpx.get(f"{url}/v1/models", timeout=20).text for _ in range(3)}) == 1
    finally:
        for server in servers:
            server.close()


def test_a_server_is_named_once() -> None:
    options = {"passes_keys": True, "request_s": 1.0, "most_bytes": 9}
    with pytest.raises(ConfigError, match="--upstream: got http://x/v1 twice; allowed: once"):
        open_replicas(["http://x/v1", "http://y/v1", "http://x/v1"], None, **options)
    with pytest.raises(ConfigError, match="twice; allowed: once"):
        open_replicas(["http://x/v1", "http://X/v1/"], None, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert open_replicas([f"http://127.0.0.1:{free.getsockname()[1]}/v1"], None, **options).count == 1
