"""The proxy between the real client of `openai` and a server of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import pytest

from erecap.serving.background import running
from erecap.serving.failures import ApiFailure
from erecap.serving.proxy import create_proxy
from erecap.serving.worker import Worker
from erecap.wrapping.calls import TextCalls, TextOptions
from erecap.wrapping.log import CallLog
from tests.context.small_tokenizers import byte_level
from tests.serving.conftest import Server
from tests.session.chats import start, turn

GREEDY = {"model": "tiny", "temperature": 0.0, "max_tokens": 8}


class Proxy:
    """A proxy in a thread."""

    def __init__(
        self, upstream: str, log: Path | None = None, count: Callable[[str], int] | None = None, **options: object
    ) -> None:
        shortening = TextOptions(keep_tokens=60, count_tokens=count)
        self.calls = TextCalls(shortening, CallLog(log, "proxy", "compact"))
        app = create_proxy(upstream, self.calls, **options)  # type: ignore[arg-type]
        self._running = running(app)
        self.url = f"{self._running.__enter__()}/v1"

    def client(self, key: str = "none", **options: float) -> openai.OpenAI:
        return openai.OpenAI(api_key=key, base_url=self.url, max_retries=0, **options)  # type: ignore[arg-type]

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


def test_the_tools_of_a_request_count(proxied: Proxy, tmp_path: Path) -> None:
    look = {"type": "function", "function": {"name": "look", "description": "Look around. " * 20, "parameters": {}}}
    for tools in ([], [look]):
        proxied.client().chat.completions.create(messages=start(), **({"tools": tools} if tools else {}), **GREEDY)  # type: ignore[call-overload]
    bare, with_tools = (row["prompt_tokens"] for row in rows(tmp_path))
    assert 170 < with_tools - bare < 310  # of these 110 for what a template writes around tools


def test_the_tokenizer_that_is_named_counts(behind: Server, tmp_path: Path) -> None:
    """As `erecap serve --upstream --tokenizer FOLDER` has it: the tokens of a script that an estimate knows less of."""
    byte_level().save_pretrained(tmp_path / "tokenizer")
    chat = [
        *start(),
        *(one for n in range(9) for one in turn("ምን አለ", n)),
        {"role": "user", "content": "ሮቦቱ ይከፍተዋል። " * 9},
    ]
    told = {}
    for name, tokenizer in (("named", str(tmp_path / "tokenizer")), ("estimate", None)):
        calls = TextCalls.opened("proxy", tmp_path / name, keep_tokens=500, tokenizer=tokenizer)
        with running(create_proxy(f"{behind.url}/v1", calls, upstream_key="upstream")) as url:
            client = openai.OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0)
            client.chat.completions.create(messages=chat, **GREEDY)  # type: ignore[call-overload]
        [told[name]] = rows(tmp_path / name)
    assert told["estimate"]["tokens_estimated"] and not told["named"]["tokens_estimated"]
    whole = behind.client("upstream").chat.completions.create(messages=chat, **GREEDY)  # type: ignore[call-overload]
    assert abs(told["named"]["prompt_tokens"] - whole.usage.prompt_tokens) < 0.1 * whole.usage.prompt_tokens
    assert told["named"]["kept_tokens"] <= 500 < told["named"]["prompt_tokens"]
    assert told["named"]["server_prompt_tokens"] < 600 < whole.usage.prompt_tokens


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
    monkeypatch.setattr(TextCalls, "prepare", lambda calls, messages, request: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as caught:
        proxied.client().chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert caught.value.code == "internal"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is no JSON"),
        (b"{}", "messages: missing"),
        (b'{"messages": [{"content": "%s"}]}' % (b"word " * 200), "message 0 must have a role and a text content"),
    ],
)
def test_what_cannot_be_shortened(proxied: Proxy, body: bytes, words: str) -> None:
    sent = httpx.post(f"{proxied.url}/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert sent.status_code == 400 and words in sent.json()["error"]["message"]


class Counting:
    """Counts tokens, slowly: it waits until it may go on, in the thread that shortens."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, text: str) -> int:
        self.begun.set()
        assert self.go.wait(60)
        return len(text) // 4


def test_others_are_served_while_a_chat_is_shortened(behind: Server, tmp_path: Path) -> None:
    counting = Counting()
    proxy = Proxy(f"{behind.url}/v1", tmp_path, count=counting, upstream_key="upstream", most_waiting=0)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(
            lambda: proxy.client().chat.completions.create(messages=long(), **GREEDY)  # type: ignore[call-overload]
        )
        assert counting.begun.wait(60)
        assert httpx.get(proxy.url.replace("/v1", "/health"), timeout=30).json() == {"status": "ok"}
        with pytest.raises(openai.InternalServerError, match="calls are waiting to be shortened already") as caught:
            proxy.client(timeout=30).chat.completions.create(messages=long(), **GREEDY)  # type: ignore[call-overload]
        assert caught.value.status_code == 503 and not asked.done()
        counting.go.set()
        assert asked.result(60).choices
    assert rows(tmp_path)[0]["decision"] == "pruned"
    assert proxy.client().chat.completions.create(messages=long(), **GREEDY).choices  # type: ignore[call-overload]
    proxy.stop()


def test_a_worker_keeps_the_order_and_does_one_thing_at_a_time() -> None:
    done: list[int] = []
    running: list[str] = []

    def do(number: int) -> int:
        running.append(threading.current_thread().name)
        assert len(running) == 1
        done.append(number)
        running.pop()
        return number

    async def ask() -> None:
        worker = Worker(most_waiting=40)
        results = await asyncio.gather(*(worker.ask(do, number) for number in range(41)))
        assert results == done == list(range(41))
        with pytest.raises(ZeroDivisionError):
            await worker.ask(lambda: 1 // 0)
        gate = threading.Event()
        held = [asyncio.create_task(worker.ask(gate.wait)) for _ in range(41)]
        await asyncio.sleep(0)
        with pytest.raises(ApiFailure, match="40 calls are waiting"):
            await worker.ask(do, 99)
        worker.tell(do, 100)
        gate.set()
        assert all(await asyncio.gather(*held))
        worker.close()
        assert done[-1] == 100 and 99 not in done

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_a_proxy_that_is_set_up_wrongly_does_not_blame_the_client(proxied: Proxy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ERECAP_MODE", "fast")
    with pytest.raises(openai.InternalServerError, match="ERECAP_MODE: got 'fast'") as caught:
        proxied.client().chat.completions.create(messages=start(), **GREEDY)  # type: ignore[call-overload]
    assert caught.value.status_code == 500
