"""Limits before every request: its size, and the key. Plain ASGI, so that nothing is read that is refused."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException

from erecap.serving.failures import ApiFailure

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN = ("/health", "/metrics")  # need no key: whoever watches a server need not be able to use it
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", *OPEN)


class Limits:
    """Refuses requests without the key and bodies that are too large, and tells how every request ended.

    Args:
        app: the application behind.
        ended: called with the path ("other" for unknown ones) and the status of every response.
        key: what `Authorization: Bearer` must bring; None: nothing.
        most_bytes: of a body.
        ending: called when the server is told to end, before what is running has ended.
    """

    def __init__(
        self,
        app: Any,
        key: str | None,
        most_bytes: int,
        ended: Callable[[str, int], None] = lambda path, status: None,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self.ending = ending
        self._app, self._key, self._most, self._ended = app, key, most_bytes, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def told(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._ended(path, message["status"])
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        if (
            self._key is not None
            and scope["path"] not in OPEN
            and not self._allowed(headers.get(b"authorization", b""))
        ):
            words = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            await _refuse(told, ApiFailure(401, words, code="invalid_api_key"))
            return
        words = f"the body is too large; allowed: up to {self._most} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            await _refuse(told, ApiFailure(413, words))
            return
        read = 0

        async def limited() -> dict[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, words)
            return message

        await self._app(scope, limited, told)

    def _allowed(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        assert self._key is not None, "only asked where there is one"
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key.encode())


async def _refuse(send: Send, failure: ApiFailure) -> None:
    body = json.dumps(failure.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
