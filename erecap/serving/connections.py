"""Connections of a server: slow ones are closed, and what waits is refused as soon as the server is told to end."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from erecap.serving.limits import Limits

HEADERS_S = 10.0  # how long the headers of a request may take
BODY_S = 60.0  # the same of its body
HEADER_BYTES = 32 << 10
# Clients drop idle connections themselves, those of httpx after 5 s. A server that does so at the same moment loses
# requests that were just sent.
IDLE_S = 75


class SlowBodies:
    """Refuses requests whose bodies take too long. Plain ASGI.

    Args:
        app: the application behind.
        most_s: seconds that a body may take.
    """

    def __init__(self, app: Any, most_s: float = BODY_S) -> None:
        self._app, self._most_s = app, most_s

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        until, complete = time.monotonic() + self._most_s, False

        async def timely() -> Any:
            nonlocal complete
            if complete:  # what comes now is that the client hangs up, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError as error:
                raise HTTPException(408, f"the body took longer than {self._most_s:g} s") from error
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, timely, send)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a time limit for the headers of each request, the first included."""

    headers_s = HEADERS_S
    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request have come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        if self._headers_timer is not None:
            self._headers_timer.cancel()

    def _watch(self) -> None:
        """Count the time while a request is due whose headers are not complete."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
        elif not answering and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_s, self._too_slow)

    def _too_slow(self) -> None:
        self._headers_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """A server of one application that tells it at once when it is to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, finish what is running, and close."""
        if isinstance(self.config.app, Limits):
            self.config.app.ending()
        await super().shutdown(sockets)


def settings(app: Any, host: str = "127.0.0.1", port: int = 0, end_s: int | None = None) -> uvicorn.Config:
    """The settings of a server.

    Args:
        end_s: seconds that running requests may take once the server is to end; None: no limit.
    """
    return uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        lifespan="on",
        http=BoundedProtocol,  # of h11, which gives paths as they were sent
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=end_s,
        proxy_headers=False,
    )
