"""Several servers behind a proxy: a conversation stays with one of them, and moves on where that one is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx
from fastapi import Request

from erecap.errors import ConfigError
from erecap.serving.affinity import HEADER, HashRing
from erecap.serving.failures import overloaded
from erecap.serving.limits import TENANT
from erecap.serving.upstream import Lost, Upstream, checked_url

log = logging.getLogger(__name__)
REST_S = 5.0  # that a server is left out after it was lost
CONNECT_S = 5.0  # in which one of several servers must take a connection
_BUSY = 503  # status of a server that takes no more requests now
_NUMBER = "erecap.replica"  # key of an answer's extensions: the server that it comes from


class Replicas:
    """Servers with the same model, of which each request goes to the first in its conversation's order that answers.

    Nothing is lost with a server but time: clients send whole chats, and another server reads a chat that it does not
    know. With one server all goes there.

    Args:
        servers: those behind.
        names: their URLs, by which conversations are spread; the same on every proxy before them.
        rest_s: how long a lost one is left out.
    """

    def __init__(self, servers: Sequence[Upstream], names: Sequence[str], rest_s: float = REST_S) -> None:
        self._servers, self._names, self._rest_s = list(servers), list(names), rest_s
        self._ring = HashRing(names)
        self._back: dict[int, float] = {}  # number of a lost server -> when it is tried again
        self.moved = 0  # requests that another server answered than their conversation's own

    @property
    def count(self) -> int:
        """Servers, lost or not."""
        return len(self._servers)

    @property
    def lost(self) -> int:
        """Servers that are left out now."""
        now = asyncio.get_running_loop().time()
        return sum(back > now for back in self._back.values())

    def until(self) -> float:
        """As `Upstream.until`."""
        return self._servers[0].until()

    async def ask(
        self, request: Request, path: bytes, body: bytes, until: float, conversation: str = ""
    ) -> httpx.Response:
        """As `Upstream.ask`, of the first server that answers.

        Args:
            conversation: as of `affinity.conversation_of`; the header `x-session-id` counts before it.

        Raises:
            ApiFailure: as there, of the last server that was asked.
        """
        answer, _ = await self._answered(False, request, path, body, until, conversation)
        return answer

    async def ask_whole(
        self, request: Request, path: bytes, body: bytes, until: float, conversation: str = ""
    ) -> tuple[httpx.Response, bytes]:
        """The answer with its whole body: one that breaks off is asked of the next server.

        Raises:
            ApiFailure: as `ask`, or as `Upstream.chunks`.
        """
        return await self._answered(True, request, path, body, until, conversation)

    async def chunks(self, answer: httpx.Response, until: float) -> AsyncGenerator[bytes, None]:
        """As `Upstream.chunks`; a server that breaks off is left out for a while."""
        number = answer.extensions[_NUMBER]
        try:
            async with aclosing(self._servers[number].chunks(answer, until)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Lost as failure:
            self._lose(number, failure)
            raise

    async def whole(self, answer: httpx.Response, until: float) -> bytes:
        """As `Upstream.whole`; a server that breaks off is left out for a while."""
        return b"".join([chunk async for chunk in self.chunks(answer, until)])

    async def close(self) -> None:
        """End all connections."""
        for server in self._servers:
            await server.close()

    async def _answered(
        self, whole: bool, request: Request, path: bytes, body: bytes, until: float, conversation: str
    ) -> tuple[httpx.Response, bytes]:
        """The answer of the first server that gives one, with its body where `whole` is true."""
        busy = False
        order = self._order(request, conversation)
        now = asyncio.get_running_loop().time()
        asked = sorted(order, key=lambda number: self._back.get(number, 0.0) > now)  # those just lost come last
        for number in asked:
            last = number == asked[-1]
            try:
                answer = await self._servers[number].ask(request, path, body, until)
                answer.extensions[_NUMBER] = number
                self._back.pop(number, None)
                if answer.status_code == _BUSY and not last:
                    await answer.aclose()
                    busy = True
                    continue
                content = await self._servers[number].whole(answer, until) if whole else b""
            except Lost as failure:
                self._lose(number, failure)
                if last and busy:  # a client may try again where it would give up a server that is gone
                    raise overloaded("all servers behind are busy or lost; try again later") from failure
                if last:
                    raise
                continue
            self.moved += number != order[0]
            return answer, content
        raise AssertionError("the last server's failure is raised")

    def _order(self, request: Request, conversation: str) -> list[int]:
        """Numbers of all servers, the one that the conversation belongs to first."""
        who = request.headers.get(HEADER) or conversation
        return self._ring.order(f"{request.scope[TENANT]} {request.headers.get('authorization', '')} {who}")

    def _lose(self, number: int, failure: Lost) -> None:
        """Leave a server out for a while, where there are others."""
        if self.count > 1:
            self._back[number] = asyncio.get_running_loop().time() + self._rest_s
            log.warning("%s is left out for %g s: %s", self._names[number], self._rest_s, failure)


def open_replicas(urls: Sequence[str], key: str | None, **options: Any) -> Replicas:
    """The servers of these URLs; `options` as of `Upstream`.

    Raises:
        ConfigError: a URL that cannot be one, or that is there twice.
    """
    names = [str(checked_url(url)) for url in urls]  # one name of a server, with or without a slash at its end
    repeated = next((url for url, name in zip(urls, names, strict=True) if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"--upstream: got {repeated} twice; allowed: once")
    connect_s = CONNECT_S if len(urls) > 1 else None
    return Replicas([Upstream(url, key, connect_s=connect_s, **options) for url in urls], names)
