"""The proxy between the real client of `openai` and a server of ours."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import pytest

from erecap.serving.background import running
from erecap.serving.proxy import create_proxy
from erecap.wrapping.calls import TextCalls, TextOptions
from erecap.wrapping.log import CallLog
from tests.serving.conftest import Server
from tests.session.chats import start, turn

GREEDY = {"model": "tiny", "temperature": 0.0, "max_tokens": 8}


class Proxy:
    """A proxy in a thread."""

    def __init__(self, upstream: str, log: Path | None = None, keep_tokens: int = 60, **options: object) -> None:
        self.calls = TextCalls(TextOptions(keep_tokens=keep_tokens), CallLog(log, "proxy", "compact"))
        app = create_proxy(upstream, self.calls, **options)  # type: ignore[arg-type]
        self._running = running(app)
        self.url = f"{self._running.__enter__()}/v1"

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(api_key=key, base_url=self.url, max_retries=0)

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def behind() -> Iterator[Server]:
    server = Server(key="upstream")
    yield server
    server.stop()


@pytest.fixture
def proxied(behind: Server, tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(f"{behind.url}/v1", tmp_path, upstream_key="upstream")
    yield proxy
    proxy.stop()


def long() -> list[dict]:
    return start() + [message for number in range(12) for message in turn(f"go to shelf {number}", number)]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def test_a_short_chat_goes_through_as_it_is(proxied: Proxy, behind: Server, tmp_path: Path) -> None:
    direct = behind.client("upstream").chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    answer = proxied.client().chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert answer.choices == direct.choices and answer.usage.prompt_tokens == direct.usage.prompt_tokens
    assert [one.id for one in proxied.client().models.list()] == ["tiny"]
    [row] = rows(tmp_path)
    assert row["decision"] == "passed" and row["server_prompt_tokens"] == direct.usage.prompt_tokens


def test_a_long_chat_is_shortened(proxied: Proxy, behind: Server, tmp_path: Path) -> None:
    direct = behind.client("upstream").chat.completions.create(messages=long(), **GREEDY)  # type: ignore[call-overload]
    answer = proxied.client().chat.completions.create(messages=long(), **GREEDY)  # type: ignore[call-overload]
    assert answer.usage.prompt_tokens < 0.6 * direct.usage.prompt_tokens
    chunks = list(
        proxied.client().chat.completions.create(
            messages=long(), stream=True, stream_options={"include_usage": True}, **GREEDY
        )  # type: ignore[call-overload]
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    wanted = f'erecap_tokens_total{{kind="prompt"}} {2.0 * answer.usage.prompt_tokens}'
    for _ in range(100):  # a stream is noted when its last part is out, which the client may have before
        page = httpx.get(proxied.url.replace("/v1", "/metrics")).text
        if len(rows(tmp_path)) == 2 and wanted in page:
            break
        time.sleep(0.05)
    one, two = rows(tmp_path)
    assert one["decision"] == two["decision"] == "pruned"
    assert one["server_prompt_tokens"] == two["server_prompt_tokens"] == answer.usage.prompt_tokens
    assert wanted in page


def test_failures_of_the_server_behind_are_passed_on(proxied: Proxy, behind: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'other'; this server has tiny"):
        proxied.client().chat.completions.create(model="other", messages=start())  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="n: got 2"):
        proxied.client().chat.completions.create(messages=start(), n=2, stream=True, **GREEDY)  # type: ignore[call-overload]
    own_key = Proxy(f"{behind.url}/v1")
    with pytest.raises(openai.AuthenticationError):
        own_key.client("wrong").chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert own_key.client("upstream").chat.completions.create(messages=start(), **GREEDY).choices  # type: ignore[call-overload]
    own_key.stop()
    nobody = Proxy("http://127.0.0.1:9/v1", key="mine")
    with pytest.raises(openai.InternalServerError, match="the server behind cannot be reached") as caught:
        nobody.client("mine").chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert caught.value.status_code == 502
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        nobody.client("other").chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    nobody.stop()


class Zipping(BaseHTTPRequestHandler):
    """Compresses what it sends, as servers do for clients that say they understand it."""

    def do_GET(self) -> None:
        body = gzip.compress(b'{"object": "list", "data": []}')
        assert "gzip" in self.headers["Accept-Encoding"]
        self.send_response(200)
        for name, value in {"Content-Encoding": "gzip", "Content-Type": "application/json", "X-Own": "1"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_compressed_answers_arrive_readable() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Zipping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}/v1")
    sent = httpx.get(f"{proxy.url}/models", headers={"Accept-Encoding": "identity"})
    assert sent.json() == {"object": "list", "data": []} and sent.headers["x-own"] == "1"
    proxy.stop()
    server.shutdown()
    server.server_close()


def test_an_error_of_the_proxy_itself_has_the_same_format(proxied: Proxy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(proxied.calls, "prepare", lambda messages: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as caught:
        proxied.client().chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert caught.value.code == "internal"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is no JSON"),
        (b"{}", "messages: missing"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "parts of type image_url"),
    ],
)
def test_what_cannot_be_shortened(proxied: Proxy, body: bytes, words: str) -> None:
    sent = httpx.post(f"{proxied.url}/chat/completions", content=body)
    assert sent.status_code == 400 and words in sent.json()["error"]["message"]
