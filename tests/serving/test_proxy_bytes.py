"""Answers pass the proxy byte by byte, whatever is in them, and what is noted of them never costs one."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import resource
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.generation import Generation
from erecap.serving.answers import ChatAnswer
from erecap.serving.background import running
from erecap.serving.books import StreamBooks, counts, noted
from erecap.serving.proxy import create_proxy
from erecap.serving.tools import Tools
from erecap.serving.unpacking import Unpacker
from erecap.serving.worker import Worker
from erecap.wrapping.calls import TextCalls, TextOptions
from erecap.wrapping.log import CallLog
from tests.serving.recorded import ASKED, Behind, asked, event, proxied

ENDS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\ufeff", "\U0001f600", "\u0000"]


@pytest.fixture(scope="module")
def through() -> Iterator[tuple[Behind, str]]:
    with proxied() as both:
        yield both


def chunk(text: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.mark.parametrize("end", ENDS)
def test_characters_that_end_lines_elsewhere_stay_in_a_stream(through: tuple[Behind, str], end: str) -> None:
    behind, url = through
    text = f"one{end}two{end}{end}three"
    sent = event(chunk(text)) + b"data: [DONE]\n\n"
    behind.answers(sent, kind=b"text/event-stream")
    assert asked(url, stream=True).content == sent
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
    assert [one.choices[0].delta.content for one in chunks] == [text]


@pytest.mark.parametrize("end", [*ENDS, "\ud800"])
def test_our_own_events_are_one_line_for_everybody(end: str) -> None:
    answer = ChatAnswer("m", Tools(), with_usage=True)
    events = [*answer.text(f"one{end}two"), *answer.last(Generation(f"a{end}b"), "", 0)]
    for line in events:
        assert line.endswith("\n\n") and line[:-2].splitlines() == [line[:-2]] and line.isascii()
    assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == f"one{end}two"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@given(texts=st.lists(st.text(max_size=20), max_size=4), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_what_is_noted_does_not_depend_on_how_a_stream_is_cut(ending: bytes, texts: list[str], cuts: list[int]) -> None:
    lines = [b": a comment", b"event: x", b"data:[DONE]", b"data: {", b'data: {"choices": [null]}']
    lines += [b"data:" + json.dumps(chunk(text), ensure_ascii=False).encode() for text in texts]
    sent = ending.join([*lines, b'data: {"usage": {"prompt_tokens": 7}}', b""])
    books, borders = StreamBooks(), [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    for low, high in pairwise(borders):
        books.read(sent[low:high])
    assert books.text == "".join(texts) and books.counts == {"prompt": 7}


ODD = [None, [], {}, "12", True, -1, 1.5, math.nan, math.inf, 10**400, "\ud800", [[[]]], {"a": None}]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
@pytest.mark.parametrize("stream", [False, True])
def test_odd_fields_pass_and_are_not_counted(tmp_path: Path, odd: Any, stream: bool) -> None:
    usage = {"prompt_tokens": odd, "completion_tokens": 3, "prompt_tokens_details": odd}
    choice = {"index": 0, "message": odd, "delta": odd}
    bodies = [{"choices": odd}, {"choices": [odd], "usage": odd}, {"choices": [choice], "usage": usage}, [odd], odd]
    bodies.append(
        {"choices": [{"message": {"content": odd}, "delta": {"content": odd}}], "usage": {"prompt_tokens": 5}}
    )
    with proxied(log=tmp_path) as (behind, url):
        for body in bodies:
            sent = event(body) if stream else json.dumps(body).encode()
            behind.answers(sent, kind=b"text/event-stream" if stream else b"application/json")
            got = asked(url, stream=stream)
            assert (got.status_code, got.content) == (200, sent)
        page = httpx.get(f"{url}/metrics").text
    assert 'erecap_tokens_total{kind="completion"} 3.0' in page
    assert "erecap_unnoted_total 0.0" in page
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert len(rows) == len(bodies) and rows[-1]["server_prompt_tokens"] == 5


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", b'{"usage": {"prompt_tokens": %s}}' % (b"9" * 5000), b"[" * 100_000, b"\xff\xfe", b'"\\ud800"'],
)
def test_answers_in_no_known_format_pass(through: tuple[Behind, str], content: bytes) -> None:
    behind, url = through
    for stream in (False, True):
        sent = b"data: " + content + b"\n\n" if stream else content
        behind.answers(sent)
        got = asked(url, stream=stream)
        assert (got.status_code, got.content) == (200, sent)
    assert noted(content)[1] == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda below: (
            st.lists(below)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "usage",
                        "choices",
                        "message",
                        "delta",
                        "content",
                        "prompt_tokens",
                        "completion_tokens",
                        "prompt_tokens_details",
                        "cached_tokens",
                    ]
                ),
                below,
            )
        ),
    )
)
def test_books_take_any_json(body: Any) -> None:
    text, found = noted(json.dumps(body).encode())
    books = StreamBooks()
    books.read(event(body))
    assert isinstance(text, str) and isinstance(books.text, str)
    assert all(type(value) is int and 0 <= value <= 10**12 for value in [*found.values(), *counts(body).values()])


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: the nearest thing to a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("trouble", ["a full disk", "a folder in its place"])
def test_a_log_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, trouble: str
) -> None:
    rows = tmp_path / "replans.jsonl"
    full = trouble == "a full disk"
    if full:
        rows.write_bytes(b"{}\n" * 350_000)
    with proxied(log=tmp_path) as (behind, url):
        if not full:
            rows.mkdir()
        with full_disk(1_050_100) if full else nullcontext():
            for stream in (False, True):
                sent = event(chunk("y")) if stream else b'{"choices": [{"message": {"content": "y"}}]}'
                behind.answers(sent)
                got = asked(url, stream=stream)
                assert (got.status_code, got.content) == (200, sent)
        assert "erecap_unnoted_total 2.0" in httpx.get(f"{url}/metrics").text
    assert ("File too large" if full else "Is a directory") in str(recwarn.pop(UserWarning).message)
    assert caplog.text.count("a call could not be noted in") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_that_fits_is_sent_as_it_came(through: tuple[Behind, str], stream: bool) -> None:
    behind, url = through
    behind.answers(b"{}")
    body = b'{ "stream": %s, "messages": [{"role": "user", "content": "\\ud800 \\u2028"}], "seed": 1e400, "seed": %s}'
    body %= (b"true" if stream else b"false", b"12345678901234567890123")
    httpx.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert behind.body == body


def test_half_a_surrogate_pair_in_a_chat_that_is_shortened(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"{}")
    turns = [
        {"role": role, "content": f"\ud83d {number} " + 300 * "word "}
        for number in range(4)
        for role in ("user", "assistant")
    ]
    body = json.dumps({**ASKED, "messages": [{"role": "system", "content": "s"}, *turns, *ASKED["messages"]]}).encode()
    got = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert got.status_code == 200
    kept = json.loads(behind.body)["messages"]
    assert len(behind.body) < len(body) and kept[-1] == ASKED["messages"][0]


def long(*more: str) -> bytes:
    """A chat that has to be shortened, as JSON; `more` are further fields of the request."""
    turns = [
        {"role": role, "content": f"{number} " + 300 * "word "} for number in range(4) for role in ("user", "assistant")
    ]
    chat = [{"role": "system", "content": "s"}, *turns, *ASKED["messages"]]
    return ("{" + ", ".join([*more, f'"messages": {json.dumps(chat)}']) + "}").encode()


def post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})


NUMBERS = [
    "1e400", "-1e400", "12345678901234567890123.0", "0.1000000000000000000001", "1E5", "1.50", "-0", "-0.0", "NaN",
    "-Infinity", "123456789012345678901234567890", "5",
]  # fmt: skip


def test_numbers_of_a_chat_that_is_shortened_keep_their_digits(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"{}")
    for number in NUMBERS:
        body = long(f'"seed": {number}', f'"tools": [{{"a": [true, null, {number}, "x\\ud800"]}}]')
        assert post(url, body).status_code == 200
        assert len(behind.body) < len(body) // 2
        head = f'{{"seed": {number}, "tools": [{{"a": [true, null, {number}, "x\\ud800"]}}], "messages": [{{'
        assert behind.body.startswith(head.encode())


@pytest.mark.parametrize("twice", ['"model": "a", "model": "b"', '"tools": [{"a": 1, "b": 2, "\\u0061": 1}]'])
def test_a_key_that_is_there_twice_in_a_chat_that_is_shortened(through: tuple[Behind, str], twice: str) -> None:
    behind, url = through
    behind.answers(b"{}")
    got = post(url, long(twice))
    assert got.status_code == 400 and " twice in one object" in got.json()["error"]["message"]
    fits = ("{" + twice + ', "messages": [{"role": "user", "content": "x", "role": "user"}]}').encode()
    assert post(url, fits).status_code == 200 and behind.body == fits


@pytest.mark.parametrize(
    "odd", [{"type": "message", "content": "q"}, {"content": "q"}, {"role": 5}, 5, None, "x", [], {"role": "user"}]
)
def test_a_chat_that_fits_passes_whatever_its_messages_are(tmp_path: Path, odd: Any) -> None:
    with proxied(log=tmp_path) as (behind, url):
        behind.answers(b"{}")
        fits = json.dumps({"messages": [{"role": "user", "content": "x"}, odd]}).encode()
        for _ in range(4):
            assert post(url, fits).status_code == 200 and behind.body == fits
        rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
        assert [row["decision"] for row in rows] == ["passed"] * 4 and all(
            0 < row["prompt_tokens"] < 60 for row in rows
        )


def test_a_chat_over_the_budget_with_messages_that_nobody_knows(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"{}")
    chat = json.loads(long())["messages"]
    some = json.dumps({"messages": [*chat, {"content": "q"}]}).encode()
    assert post(url, some).status_code == 200 and behind.body == some  # what nobody knows is never shortened
    none = json.dumps({"messages": [{"content": said["content"]} for said in chat]}).encode()
    got = post(url, none)
    assert got.status_code == 400 and got.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("status", [b"600 X", b"999 X"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_status_that_no_answer_has(through: tuple[Behind, str], status: bytes, stream: bool) -> None:
    behind, url = through
    behind.answers(b"{}", status=status)
    got = asked(url, stream=stream)
    assert got.status_code == 502
    assert f"the status {status[:3].decode()}, which no answer has" in got.json()["error"]["message"]
    assert httpx.get(f"{url}/v1/models").status_code == 502


class Pinging:
    """A server that begins an answer, and goes on sending a byte now and then."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._head, self._piece = head, piece
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(self._head)
            while not self._ended.wait(0.05):
                connection.sendall(self._piece)

    def close(self) -> None:
        self._ended.set()
        self._socket.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("kind", ["stream", "whole", "other", "head"])
def test_a_server_behind_that_never_ends_is_left_in_time(kind: str) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    behind = Pinging(b"HTTP/1.1 200 OK\r\nX: " if kind == "head" else begun, b"y" if kind == "head" else b": ping\n\n")
    calls = TextCalls(TextOptions(keep_tokens=500), CallLog(None, "proxy", "compact"))
    with running(create_proxy(behind.url, calls, request_s=1.0)) as url:
        if kind == "other":
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"{url}/v1/files/1/content", timeout=60)
        elif kind == "stream":
            got = asked(url, stream=True)
            assert got.content.startswith(b": ping\n\n")
            assert json.loads(got.content.split(b"data: ")[-1])["error"]["code"] == "timeout"
        else:
            got = asked(url)
            assert got.status_code == 504 and got.json()["error"]["code"] == "timeout"
    behind.close()


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"messages": ' + b"[" * 5000, b'{"messages": [' + b"9" * 5000 + b"]}"]
)
def test_bodies_that_no_parser_takes_are_refused(through: tuple[Behind, str], body: bytes) -> None:
    got = httpx.post(f"{through[1]}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert got.status_code == 400 and "\n" not in got.json()["error"]["message"]


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Behind, str]]:
    with proxied(most_answer_bytes=10_000) as both:
        yield both


class TestBounds:
    """Answers are bounded in bytes, unpacked ones."""

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, zlib.compress])
    def test_a_whole_answer(self, small: tuple[Behind, str], pack: Any) -> None:
        behind, url = small
        coding = {bytes: b"identity", gzip.compress: b"gzip", zlib.compress: b"deflate"}[pack]
        for size, status in ((9_000, 200), (11_000, 502), (3_000_000, 502)):
            behind.answers(pack(b" " * size), b"Content-Encoding: " + coding)
            got = asked(url)
            assert got.status_code == status, size
            assert status == 200 or got.json()["error"]["message"].endswith("is larger than 10000 bytes")

    def test_a_stream_ends_with_the_reason(self, small: tuple[Behind, str]) -> None:
        behind, url = small
        behind.answers(event(chunk("x")) * 200, kind=b"text/event-stream")
        got = asked(url, stream=True)
        assert len(got.content) < 11_000
        assert json.loads(got.content.split(b"data: ")[-1])["error"]["code"] == "upstream"

    def test_other_answers_have_no_end(self, small: tuple[Behind, str]) -> None:
        behind, url = small
        behind.answers(b"x" * 200_000)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/v1/files/1/content")

    def test_a_packing_that_nobody_asked_for(self, small: tuple[Behind, str]) -> None:
        behind, url = small
        behind.answers(b"x", b"Content-Encoding: zstd")
        got = asked(url)
        assert got.status_code == 502 and "encoding 'zstd'" in got.json()["error"]["message"]
        behind.answers(b"no gzip", b"Content-Encoding: gzip")
        assert asked(url).status_code == 502


PACKED = json.dumps({"choices": [{"message": {"content": "go to shelf 1. " * 60}}]}).encode()
RAW = zlib.compressobj(wbits=-15)
WHOLE: dict[str, tuple[bytes, bytes]] = {
    "two members": (b"gzip", gzip.compress(PACKED[:300]) + gzip.compress(PACKED[300:])),
    "an empty member between": (b"gzip", gzip.compress(PACKED[:9]) + gzip.compress(b"") + gzip.compress(PACKED[9:])),
    "zeros behind": (b"GZIP", gzip.compress(PACKED) + bytes(40)),
    "deflate without a header": (b"deflate", RAW.compress(PACKED) + RAW.flush()),
}
DAMAGED: dict[str, tuple[bytes, bytes]] = {
    "cut short": (b"gzip", gzip.compress(PACKED)[:-20]),
    "cut in the second member": (b"gzip", gzip.compress(PACKED) + gzip.compress(PACKED)[:40]),
    "deflate cut short": (b"deflate", zlib.compress(PACKED)[:-3]),
    "another checksum": (b"gzip", gzip.compress(PACKED)[:-6] + b"123456"),
    "text behind": (b"gzip", gzip.compress(PACKED) + b"more"),
    "no deflate at all": (b"deflate", PACKED),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", [*WHOLE, *DAMAGED])
def test_packed_answers_arrive_whole_or_as_broken(through: tuple[Behind, str], case: str, stream: bool) -> None:
    behind, url = through
    encoding, packed = {**WHOLE, **DAMAGED}[case]
    behind.answers(packed, b"Content-Encoding: " + encoding)
    got = asked(url, stream=stream)
    if case in WHOLE:
        assert (got.status_code, got.content) == (200, PACKED)
    elif stream:  # its status went out before
        assert got.content != PACKED and b"cannot be unpacked" in got.content
    else:
        assert got.status_code == 502 and "cannot be unpacked" in got.json()["error"]["message"]


@given(st.binary(max_size=300), st.integers(1, 40), st.sampled_from(["gzip", "deflate", "identity"]))
def test_what_is_unpacked_does_not_depend_on_how_it_is_cut(content: bytes, size: int, encoding: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding]
    sent = pack(content) + (pack(content) if encoding == "gzip" else b"")
    unpacker = Unpacker(encoding)
    found = b"".join(unpacker.read(sent[at : at + size]) for at in range(0, len(sent), size))
    unpacker.end()
    assert found == content * (2 if encoding == "gzip" else 1)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off(through: tuple[Behind, str], stream: bool) -> None:
    behind, url = through
    behind.answers(event(chunk("begun")) * 2)
    behind.answer = behind.answer[:-5]
    got = asked(url, stream=stream)
    if stream:  # its status went out before
        assert b"begun" in got.content and b"the server behind broke off" in got.content
    else:
        assert got.status_code == 502 and "broke off" in got.json()["error"]["message"]


def test_what_a_client_heard_before_it_hung_up_is_noted(tmp_path: Path) -> None:
    with proxied(log=tmp_path) as (behind, url):
        behind.answers(event(chunk("word " * 20)) * 20_000, kind=b"text/event-stream")
        body = {**ASKED, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            assert next(answer.iter_raw(chunk_size=10))
        deadline = time.monotonic() + 60
        while not (tmp_path / "replans.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        [row] = (tmp_path / "replans.jsonl").read_text().splitlines()
    assert json.loads(row)["plan_tokens"] > 0


def test_what_is_told_is_done_though_the_one_who_waits_is_cancelled() -> None:
    async def tell() -> list[int]:
        worker, gate, done = Worker(4), threading.Event(), list[int]()
        worker.tell(gate.wait)
        waiting = asyncio.create_task(worker.told(done.append, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        worker.close()
        return done

    assert asyncio.run(tell()) == [1]
