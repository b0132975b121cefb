"""A proxy before any OpenAI-compatible server: long chats are shortened as text, everything else passes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from erecap.errors import ConfigError
from erecap.serving.affinity import conversation_of, conversation_of_body
from erecap.serving.answers import event
from erecap.serving.app import add_failures
from erecap.serving.books import StreamBooks, noted
from erecap.serving.chat_body import ChatBody
from erecap.serving.dialect import Dialect
from erecap.serving.failures import ApiFailure
from erecap.serving.guard import JSON, MULTIPART, Guard
from erecap.serving.headers import OF_ANSWERS, Header, end_to_end
from erecap.serving.keys import EVERYBODY, Keys
from erecap.serving.limits import TENANT, Limits
from erecap.serving.metrics import Metrics
from erecap.serving.paths import PATH, PlainPaths
from erecap.serving.replicas import open_replicas
from erecap.serving.upstream import in_time
from erecap.serving.worker import Worker
from erecap.wrapping.calls import Call, TextCalls
from erecap.wrapping.shapes import read_messages
from erecap.wrapping.switch import switched_off

log = logging.getLogger(__name__)
_MOST_TENANTS = 256  # whose conversations are remembered


def create_proxy(
    upstream: str | Sequence[str],
    calls: TextCalls,
    *,
    upstream_key: str | None = None,
    key: str | Keys | None = None,
    most_bytes: int = 4 << 20,
    most_answer_bytes: int = 64 << 20,
    request_s: float = 120.0,
    most_waiting: int = 64,
    hosts: Collection[str] | None = None,
) -> Any:
    """The ASGI application.

    Args:
        upstream: base URL of the server behind, with its `/v1`, or of several with the same model: a conversation
            stays with one of them while that one answers.
        calls: shorten and note chats.
        upstream_key: sent to the server behind instead of what the client sent; None: the client's own goes through,
            unless it is a key of the proxy.
        key: that clients must send to the proxy, or several; None: none.
        most_bytes: of a request's body.
        most_answer_bytes: of an answer's body, uncompressed.
        request_s: how long a request may take, from its headers to the end of its answer.
        most_waiting: calls that may wait to be shortened; more are refused.
        hosts: names besides those of this machine under which it may be asked; None: any.

    Raises:
        ConfigError: an `upstream` that cannot be one.
    """
    keys = Keys.of(key)
    urls = [upstream] if isinstance(upstream, str) else list(upstream)
    behind = open_replicas(
        urls, upstream_key, passes_keys=keys is None, request_s=request_s, most_bytes=most_answer_bytes
    )
    worker = Worker(most_waiting)
    metrics = {tenant: Metrics(None, tenant) for tenant in ((EVERYBODY,) if keys is None else keys.tenants)}
    talks, dialect = _Talks(calls), Dialect(behind)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await behind.close()
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="E-RECAP proxy", lifespan=life, openapi_url=None)
    add_failures(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        several = {"replicas": behind.count, "lost": behind.lost, "moved": behind.moved} if behind.count > 1 else {}
        return {"status": "ok", **several}

    @app.get("/metrics")
    async def page(request: Request) -> PlainTextResponse:
        shown = metrics[request.scope[TENANT]].page()
        return PlainTextResponse(shown, media_type="text/plain; version=0.0.4")

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ApiFailure(415, "Content-Encoding: a chat is read here; send it uncompressed")
        mine, books, until = talks.of(request), metrics[request.scope[TENANT]], behind.until()
        async with in_time(until):
            call, body, streams, talk = await worker.ask(_prepared, mine, await request.body())
            if call.edits is not None:
                await dialect.check(request, body)
        where = (request, request.scope[PATH], body, until, talk)
        if streams:
            answer = await behind.ask(*where)
            if answer.status_code < 400:
                stream = _streamed(behind.chunks(answer, until), worker, mine, books, call)
                return _passed(_Stream(stream, answer.status_code), answer.headers.raw)
            content = await behind.whole(answer, until)
        else:
            answer, content = await behind.ask_whole(*where)
        if answer.status_code < 400:
            await worker.told(_noted, mine, books, call, *noted(content))
        length = (b"content-length", str(len(content)).encode())
        return _passed(Response(content, answer.status_code), [*answer.headers.raw], length)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "DELETE"])
    async def other(request: Request) -> Response:
        until = behind.until()
        async with in_time(until):
            content = await request.body()
        talk = await asyncio.to_thread(conversation_of_body, content) if content and behind.count > 1 else ""
        answer = await behind.ask(request, request.scope[PATH], content, until, talk)
        return _passed(_Whole(behind.chunks(answer, until), answer.status_code), answer.headers.raw)

    guarded = Guard(PlainPaths(app, "/v1"), hosts, (JSON, MULTIPART))
    return Limits(guarded, keys, most_bytes, lambda tenant, *ended: metrics[tenant].ended(*ended))


class _Talks:
    """Conversations by who leads them: the tenant, or, where clients send keys of the server behind, such a key."""

    def __init__(self, calls: TextCalls) -> None:
        self._calls = calls
        self._apart: OrderedDict[str, TextCalls] = OrderedDict()  # the most recently used last

    def of(self, request: Request) -> TextCalls:
        """The calls among which those of this request are."""
        said = f"{request.scope[TENANT]} {request.headers.get('authorization', '')}"
        name = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        found = self._apart.pop(name, None) or self._calls.apart()
        self._apart[name] = found
        if len(self._apart) > _MOST_TENANTS:
            self._apart.popitem(last=False)
        return found


class _Stream(StreamingResponse):
    """A body that is passed on as it comes, and closed whoever ends it."""

    body_iterator: AsyncGenerator[bytes, None]

    async def stream_response(self, send: Any) -> None:
        async with aclosing(self.body_iterator):  # else a client that hangs up would leave it to the garbage collector
            await super().stream_response(send)


class _Whole(_Stream):
    """A body of which nothing is noted. Where it breaks off, the response has no end, and so the client sees it."""

    async def stream_response(self, send: Any) -> None:
        try:
            await super().stream_response(send)
        except ApiFailure as failure:
            log.warning("%s", failure)


def _passed(response: Response, headers: list[Header], *more: Header) -> Response:
    """The response with the headers of the server behind, and nothing of ours but `more`."""
    response.raw_headers = [*end_to_end(headers, OF_ANSWERS), *more]
    return response


def _prepared(calls: TextCalls, content: bytes) -> tuple[Call, bytes, bool, str]:
    """The call, the body to send, whether its answer is a stream, and the key of its conversation.

    Raises:
        ApiFailure: a body that is no request, or messages that would have to be shortened and cannot be.
    """
    body = ChatBody(content)
    messages, streams = body.asked["messages"], bool(body.asked.get("stream"))
    talk = conversation_of(body.asked)
    try:
        call = calls.prepare(messages, body.asked)
    except ConfigError:
        try:
            read_messages(messages, strict=False)
        except ConfigError as error:
            call = _unread(calls, body.asked)
            if call.reason != Call.reason and not switched_off():
                raise ApiFailure(400, str(error), param="messages") from error
            return call, content, streams, talk
        raise  # the proxy is set up wrongly, which is not the client's fault
    if call.edits is not None:
        return call, body.shortened(call.shown, call.edits), streams, talk
    if call.shown is messages:
        return call, content, streams, talk
    return call, body.shortened(call.shown), streams, talk


def _unread(calls: TextCalls, asked: dict[str, Any]) -> Call:
    """The call of messages in a form that is not known here: counted as one text, and sent as they are."""
    text = json.dumps(asked["messages"], ensure_ascii=False)
    counted = calls.apart().prepare([{"role": "user", "content": text}], asked)
    return replace(counted, shown=asked["messages"], whole=len(asked["messages"]))


async def _streamed(
    chunks: AsyncGenerator[bytes, None], worker: Worker, calls: TextCalls, metrics: Metrics, call: Call
) -> AsyncGenerator[bytes, None]:
    """The events byte by byte as they come; what they said is noted when they end, or when the client hangs up."""
    books = StreamBooks()
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                books.read(chunk)
                yield chunk
    except ApiFailure as failure:
        yield f"\n\n{event(failure.body())}".encode()
    finally:
        await worker.told(_noted, calls, metrics, call, books.text, books.counts)


def _noted(calls: TextCalls, metrics: Metrics, call: Call, said: str, counts: dict[str, int]) -> None:
    prompt, cached, completion = counts.get("prompt", call.after), counts.get("cached", 0), counts.get("completion", 0)
    metrics.counted(prompt, cached, completion)
    counted = {"server_prompt_tokens": prompt, "server_cached_tokens": cached, "server_completion_tokens": completion}
    lost = calls.log.lost  # rows; nobody else writes to it, for all calls are noted in one thread
    try:
        calls.note(call, said, **(counted if counts else {}))
    except Exception:  # the answer is paid for, and goes to the client all the same
        metrics.unnoted()
        log.exception("a call could not be noted")
    if calls.log.lost > lost:  # a full disk, say; the log itself warns of it
        metrics.unnoted()
        log.error("a call could not be noted in %s", calls.log.folder)
