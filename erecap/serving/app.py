"""The application: `/v1/chat/completions`, `/v1/models`, `/health` and `/metrics` on a local model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from erecap.errors import ConfigError
from erecap.generation import Generation, Message
from erecap.serving.answers import Answer
from erecap.serving.engine import Ask, Engine
from erecap.serving.failures import ApiFailure
from erecap.serving.guard import Guard
from erecap.serving.keys import EVERYBODY, Keys
from erecap.serving.limits import TENANT, Limits
from erecap.serving.metrics import Metrics
from erecap.serving.schema import ChatRequest
from erecap.serving.streams import Stream
from erecap.serving.tools import as_text
from erecap.wrapping.shapes import PLACE, read_messages


def create_app(
    engine: Engine,
    model: str,
    *,
    key: str | Keys | None = None,
    most_bytes: int = 4 << 20,
    hosts: Collection[str] | None = None,
) -> Any:
    """The ASGI application.

    Args:
        engine: answers; closed when the application shuts down, after what is running.
        model: the name under which it is offered. Requests for another are refused.
        key: an API key that clients must send, or several, whose tenants are those of `engine`; None: none.
        most_bytes: of a request's body.
        hosts: names besides those of this machine under which it may be asked; None: any.
    """
    keys = Keys.of(key)
    tenants = (EVERYBODY,) if keys is None else keys.tenants
    metrics = {tenant: Metrics(engine, tenant) for tenant in tenants}

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="E-RECAP", lifespan=life, openapi_url=None)
    add_failures(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "erecap"}]}

    @app.get("/health")
    async def health() -> JSONResponse:
        state: dict[str, Any] = {"status": engine.broken or "ok"}
        if len(tenants) == 1:  # of several, none is told what the others do
            state |= {"sessions": len(engine.store), "running": engine.running}
        return JSONResponse(state, 200 if engine.broken is None else 503)

    @app.get("/metrics")
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(metrics[request.scope[TENANT]].page(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        if asked.model != model:
            raise ApiFailure(404, f"no model {asked.model!r}; this server has {model}", code="model_not_found")
        tools = asked.tools if asked.tools and asked.tool_choice != "none" else []
        tenant = request.scope[TENANT]
        ask = Ask(_messages(asked, tools), _options(asked), tenant)
        answer = Answer(model, bool(tools))
        if not asked.stream:
            engine.submit(ask)
            generation = await _answered(ask, request)
            metrics[tenant].answered(generation, ask.waited)
            return answer.whole(generation)
        stream = Stream(ask, answer, asked.stream_options is not None and asked.stream_options.include_usage)
        engine.submit(ask)
        await stream.begun()  # what cannot be answered at all is refused by its status, not within a stream
        return StreamingResponse(stream.events(metrics[tenant]), media_type="text/event-stream")

    return Limits(Guard(app, hosts), keys, most_bytes, lambda tenant, *ended: metrics[tenant].ended(*ended))


def add_failures(app: FastAPI) -> None:
    """All failures in the OpenAI API's format."""

    @app.exception_handler(ApiFailure)
    async def failed(request: Request, failure: ApiFailure) -> JSONResponse:
        return JSONResponse(failure.body(), failure.status)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # It is raised again behind this, and so comes into the server's log.
        return JSONResponse(ApiFailure(500, f"{type(error).__name__}: {error}", "server_error", "internal").body(), 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        words = f"{where}: {first['msg']}" if where else first["msg"]
        return JSONResponse(ApiFailure(400, words, param=where or None).body(), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        words = f"nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        return JSONResponse(ApiFailure(error.status_code, words).body(), error.status_code)


def _messages(asked: ChatRequest, tools: list[dict[str, Any]]) -> list[Message]:
    try:
        read = read_messages(asked.messages)
        unknown = next((m["role"] for m in read if m["role"] not in ("system", "user", "assistant", "tool")), None)
        if unknown is not None:
            raise ConfigError(f"role: got {unknown!r}; allowed: system, user, assistant, tool")
        plain: list[Message] = [{k: v for k, v in m.items() if k != PLACE} for m in read]  # type: ignore[misc]
        return as_text(plain, tools)
    except ConfigError as error:
        raise ApiFailure(400, str(error), param="messages") from error


def _options(asked: ChatRequest) -> dict[str, Any]:
    return {
        "max_new_tokens": asked.longest,
        "stop": asked.stops,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "seed": asked.seed,
    }


async def _answered(ask: Ask, request: Request) -> Generation:
    """The generation; a client that hangs up ends it."""
    answer = asyncio.wrap_future(ask.answer)
    while True:
        done, _ = await asyncio.wait([answer], timeout=0.5)
        if done:
            return answer.result()
        if await request.is_disconnected():
            ask.given_up.set()
