"""A proxy before any OpenAI-compatible server: long chats are shortened as text, everything else passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from erecap.errors import ConfigError
from erecap.serving.app import add_failures
from erecap.serving.failures import ApiFailure
from erecap.serving.limits import Limits
from erecap.serving.metrics import Metrics
from erecap.serving.worker import Worker
from erecap.wrapping.calls import Call, TextCalls
from erecap.wrapping.shapes import read_messages

# Of one connection, not of the request; and what httpx sets itself for the body that it sends.
_OWN_HEADERS = {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "content-length"}
_OWN_HEADERS |= {"accept-encoding", "content-encoding"}


def create_proxy(
    upstream: str,
    calls: TextCalls,
    *,
    upstream_key: str | None = None,
    key: str | None = None,
    most_bytes: int = 4 << 20,
    request_s: float = 120.0,
    most_waiting: int = 64,
) -> Any:
    """The ASGI application.

    Args:
        upstream: base URL of the server behind, with its `/v1`.
        calls: shorten and note chats.
        upstream_key: sent to the server behind instead of what the client sent; None: the client's own goes through.
        key: that clients must send to the proxy; None: none.
        most_bytes: of a request's body.
        request_s: how long the server behind may be silent.
        most_waiting: calls that may wait to be shortened; more are refused.
    """
    worker = Worker(most_waiting)
    metrics = Metrics(None)
    client = httpx.AsyncClient(base_url=upstream.rstrip("/"), timeout=request_s)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="E-RECAP proxy", lifespan=life, openapi_url=None)
    add_failures(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def page() -> PlainTextResponse:
        return PlainTextResponse(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        call, body, streams = await worker.ask(_prepared, calls, await request.body())
        answer = await _sent(client, request, "/chat/completions", body, upstream_key)
        headers = _passed(answer.headers)
        if answer.status_code >= 400 or not streams:
            content = await answer.aread()
            if answer.status_code < 400:
                await asyncio.wrap_future(worker.tell(_noted, calls, metrics, call, *_whole(content)))
            return Response(content, answer.status_code, headers)
        return StreamingResponse(_streamed(answer, worker, calls, metrics, call), answer.status_code, headers)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "DELETE"])
    async def other(path: str, request: Request) -> Response:
        answer = await _sent(client, request, f"/{path}", await request.body(), upstream_key)
        return StreamingResponse(_bytes(answer), answer.status_code, _passed(answer.headers))

    return Limits(app, key, most_bytes, metrics.ended)


def _prepared(calls: TextCalls, content: bytes) -> tuple[Call, bytes, bool]:
    """The call, the body to send, and whether its answer is a stream.

    Raises:
        ApiFailure: a body that is no request, or messages that cannot be shortened.
    """
    asked = _body(content)
    try:
        call = calls.prepare(asked["messages"], asked)
    except ConfigError:
        try:
            read_messages(asked["messages"])
        except ConfigError as error:
            raise ApiFailure(400, str(error), param="messages") from error
        raise  # the proxy is set up wrongly, which is not the client's fault
    # Escaped, because a client may send half of a surrogate pair; what that means is for the server behind to say.
    body = json.dumps({**asked, "messages": list(call.shown)}).encode("ascii")
    return call, body, bool(asked.get("stream"))


def _body(content: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(content)
    except ValueError as error:
        raise ApiFailure(400, f"the body is no JSON: {error}") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
        raise ApiFailure(400, "messages: missing; it must be a list of messages", param="messages")
    return asked


async def _sent(client: httpx.AsyncClient, request: Request, path: str, body: bytes, key: str | None) -> httpx.Response:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    made = client.build_request(request.method, path, params=request.query_params, headers=headers, content=body)
    try:
        return await client.send(made, stream=True)
    except httpx.TimeoutException as error:
        raise ApiFailure(504, f"the server behind did not answer: {error!r}", "server_error", "timeout") from error
    except httpx.HTTPError as error:
        raise ApiFailure(502, f"the server behind cannot be reached: {error!r}", "server_error", "upstream") from error


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OWN_HEADERS}


async def _bytes(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body, no longer compressed: the header that would say so is the connection's."""
    try:
        async for chunk in answer.aiter_bytes():
            yield chunk
    finally:
        await answer.aclose()


async def _streamed(
    answer: httpx.Response, worker: Worker, calls: TextCalls, metrics: Metrics, call: Call
) -> AsyncIterator[bytes]:
    """The events as they come; what they said is noted when they end, or when the client hangs up."""
    said: list[str] = []
    usage: dict[str, Any] = {}
    try:
        async for line in answer.aiter_lines():
            yield f"{line}\n".encode()
            text, counted = _chunk(line)
            said.append(text)
            usage = counted or usage
    finally:
        # Told first: where the client has hung up, everything that is awaited here is cancelled.
        noted = worker.tell(_noted, calls, metrics, call, "".join(said), usage)
        await answer.aclose()
        await asyncio.wrap_future(noted)


def _chunk(line: str) -> tuple[str, dict[str, Any]]:
    """Text and usage of one line of a stream."""
    if not line.startswith("data: {"):
        return "", {}
    try:
        body = json.loads(line[6:])
    except ValueError:
        return "", {}
    choices = body.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or "", body.get("usage") or {}


def _whole(content: bytes) -> tuple[str, dict[str, Any]]:
    """Text and usage of an answer; nothing where it is in no format that is known."""
    try:
        body = json.loads(content)
        message = body["choices"][0]["message"]
    except (ValueError, LookupError, TypeError):
        return "", {}
    return message.get("content") or "", body.get("usage") or {}


def _noted(calls: TextCalls, metrics: Metrics, call: Call, said: str, usage: dict[str, Any]) -> None:
    prompt, completion = usage.get("prompt_tokens", call.after), usage.get("completion_tokens", 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    metrics.counted(prompt, cached, completion)
    counted = {"server_prompt_tokens": prompt, "server_cached_tokens": cached, "server_completion_tokens": completion}
    calls.note(call, said, **(counted if usage else {}))
