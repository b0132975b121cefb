"""Limits before every request: its size, and the key. Plain ASGI, so that nothing is read that is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException

from erecap.serving.failures import ApiFailure, Send, refuse
from erecap.serving.keys import EVERYBODY, Keys

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
TENANT = "erecap.tenant"  # key of a scope
OPEN = ("/health", "/metrics")  # need no key: whoever watches a server need not be able to use it
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", *OPEN)


class Limits:
    """Refuses requests without a key and bodies that are too large, and tells how every other request ended.

    The scope of a request that passes has its tenant.

    Args:
        app: the application behind.
        keys: of the clients; None: none is needed. With several, `/metrics` needs one as well, and shows its tenant's.
        most_bytes: of a body.
        ended: called with the tenant, the path ("other" for unknown ones) and the status of every response.
        ending: called when the server is told to end, before what is running has ended.
    """

    def __init__(
        self,
        app: Any,
        keys: Keys | None,
        most_bytes: int,
        ended: Callable[[str, str, int], None] = lambda tenant, path, status: None,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self.ending = ending
        self._app, self._keys, self._most, self._ended = app, keys, most_bytes, ended
        self._open = ("/health",) if keys is not None and keys.several else OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        headers = {name.lower(): value for name, value in scope["headers"]}
        tenant: str | None = EVERYBODY
        if self._keys is not None:
            tenant = self._keys.tenant(headers.get(b"authorization", b""))
        scope[TENANT] = counted = self._everybodys(tenant)

        async def told(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and counted is not None:
                self._ended(counted, path, message["status"])
            await send(message)

        if tenant is None and scope["path"] not in self._open:
            words = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            await refuse(told, ApiFailure(401, words, code="invalid_api_key"))
            return
        words = f"the body is too large; allowed: up to {self._most} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            await refuse(told, ApiFailure(413, words))
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

    def _everybodys(self, tenant: str | None) -> str | None:
        """The tenant to whom a request counts; None: to nobody, for it has none of several keys."""
        if tenant is None and self._keys is not None and not self._keys.several:
            return EVERYBODY
        return tenant
