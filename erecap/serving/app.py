"""The application on a local model: `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/models`, `/health`
and `/metrics`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from erecap.serving.connections import SlowBodies
from erecap.serving.engine import Engine
from erecap.serving.failures import ApiFailure
from erecap.serving.grammar import Grammars
from erecap.serving.guard import Guard
from erecap.serving.jobs import Job, chat_job, response_job, text_job
from erecap.serving.keys import EVERYBODY, Keys
from erecap.serving.limits import TENANT, Limits
from erecap.serving.metrics import Metrics
from erecap.serving.schema import ChatRequest, ResponseRequest, Sampling, TextRequest
from erecap.serving.streams import Stream, whole

_NAMED = re.compile(r"(\w+): got ")


class AsciiResponse(JSONResponse):
    """A JSON body in ASCII: half of a surrogate pair, which a client or a model may write, has no other encoding."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def create_app(
    engine: Engine,
    model: str,
    *,
    key: str | Keys | None = None,
    most_bytes: int = 4 << 20,
    hosts: Collection[str] | None = None,
) -> Limits:
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
    grammars = Grammars(engine.pool.model, engine.tokenizer)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="E-RECAP", lifespan=life, openapi_url=None, redirect_slashes=False)
    add_failures(app)

    def offered(asked: Sampling) -> None:
        if asked.model != model:
            raise ApiFailure(404, f"no model {asked.model!r:.80}; this server has {model}", code="model_not_found")

    async def answered(job: Job, request: Request) -> Any:
        job.ask.tenant = request.scope[TENANT]
        books = metrics[job.ask.tenant]
        if not job.streamed:
            engine.submit(job.ask)
            generation = await whole(job.ask, request, engine.request_s)
            books.answered(generation, job.ask.waited)
            return AsciiResponse(job.answer.whole(generation, job.ask.evicted))
        stream = Stream(job)
        engine.submit(job.ask)
        # What cannot be answered at all is refused by its status, not within a stream.
        await stream.begun(request, engine.request_s)
        return stream.response(books)

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
        offered(asked)
        # A grammar is made in a thread: the vocabulary is looked at once, which takes a moment.
        return await answered(await asyncio.to_thread(chat_job, asked, grammars), request)

    @app.post("/v1/completions")
    async def text(asked: TextRequest, request: Request) -> Any:
        offered(asked)
        return await answered(text_job(asked), request)

    @app.post("/v1/responses")
    async def responses(asked: ResponseRequest, request: Request) -> Any:
        offered(asked)
        return await answered(await asyncio.to_thread(response_job, asked, grammars), request)

    guarded = Guard(SlowBodies(app), hosts)
    return Limits(guarded, keys, most_bytes, lambda tenant, *ended: metrics[tenant].ended(*ended), ending=engine.end)


def add_failures(app: FastAPI) -> None:
    """All failures in the OpenAI API's format."""

    @app.exception_handler(ApiFailure)
    async def failed(request: Request, failure: ApiFailure) -> AsciiResponse:
        return AsciiResponse(failure.body(), failure.status)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> AsciiResponse:
        # It is raised again behind this, and so comes into the server's log.
        return AsciiResponse(
            ApiFailure(500, f"{type(error).__name__}: {error}", "server_error", "internal").body(), 500
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> AsciiResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = str(first["msg"]).removeprefix("Value error, ")
        words = f"{where}: {said}" if where else said
        field = _NAMED.match(said)  # what looks at several fields names the one itself
        return AsciiResponse(ApiFailure(400, words, param=where or (field and field[1])).body(), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> AsciiResponse:
        words = f"nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        return AsciiResponse(ApiFailure(error.status_code, words).body(), error.status_code)
