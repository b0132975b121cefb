"""Several servers behind a proxy: a conversation stays with one of them, and moves on where that one is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import Request

from erecap.errors import ConfigError
from erecap.serving.affinity import HEADER, HashRing
from erecap.serving.limits import TENANT
from erecap.serving.upstream import Lost, Upstream

log = logging.getLogger(__name__)
REST_S = 5.0  # that a server is left out after it was lost
CONNECT_S = 5.0  # in which one of several servers must take a connection
_BUSY = 503  # status of a server that takes no more requests now


@dataclass(frozen=True)
class _Turn:
    """One server's turn to be asked."""

    number: int
    moved: bool  # it is not the conversation's own
    last: bool


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
        async for server in self._in_turn(request, conversation):
            answer = await self._asked(server, request, path, body, until)
            if answer is not None:
                return answer
        raise AssertionError("the last server's failure is raised")

    async def ask_whole(
        self, request: Request, path: bytes, body: bytes, until: float, conversation: str = ""
    ) -> tuple[httpx.Response, bytes]:
        """The answer with its whole body: one that breaks off is asked of the next server.

        Raises:
            ApiFailure: as `ask`, or as `Upstream.chunks`.
        """
        async for server in self._in_turn(request, conversation):
            answer = await self._asked(server, request, path, body, until)
            if answer is None:
                continue
            try:
                return answer, await self._servers[server.number].whole(answer, until)
            except Lost as failure:
                self._lose(server, failure)
        raise AssertionError("the last server's failure is raised")

    def chunks(self, answer: httpx.Response, until: float) -> AsyncGenerator[bytes, None]:
        """As `Upstream.chunks`."""
        return self._servers[0].chunks(answer, until)

    async def whole(self, answer: httpx.Response, until: float) -> bytes:
        """As `Upstream.whole`."""
        return await self._servers[0].whole(answer, until)

    async def close(self) -> None:
        """End all connections."""
        for server in self._servers:
            await server.close()

    async def _in_turn(self, request: Request, conversation: str) -> AsyncIterator[_Turn]:
        """The servers to ask, one after the other; those that were lost a moment ago come last."""
        named = request.headers.get(HEADER)
        who = f"{request.scope[TENANT]} {request.headers.get('authorization', '')} {named or conversation}"
        order = self._ring.order(who)
        now = asyncio.get_running_loop().time()
        asked = sorted(order, key=lambda number: self._back.get(number, 0.0) > now)
        for place, number in enumerate(asked):
            yield _Turn(number, moved=number != order[0], last=place == len(asked) - 1)

    async def _asked(
        self, server: _Turn, request: Request, path: bytes, body: bytes, until: float
    ) -> httpx.Response | None:
        """The answer of one server; None where the next is to be asked."""
        try:
            answer = await self._servers[server.number].ask(request, path, body, until)
        except Lost as failure:
            self._lose(server, failure)
            return None
        self._back.pop(server.number, None)
        if answer.status_code == _BUSY and not server.last:
            await answer.aclose()
            return None
        self.moved += server.moved
        return answer

    def _lose(self, server: _Turn, failure: Lost) -> None:
        """Leave a server out for a while.

        Raises:
            Lost: it was the last to ask.
        """
        if self.count > 1:
            self._back[server.number] = asyncio.get_running_loop().time() + self._rest_s
            log.warning("%s is left out for %g s: %s", self._names[server.number], self._rest_s, failure)
        if server.last:
            raise failure


def open_replicas(urls: Sequence[str], key: str | None, **options: Any) -> Replicas:
    """The servers of these URLs; `options` as of `Upstream`.

    Raises:
        ConfigError: a URL that cannot be one, or that is there twice.
    """
    repeated = next((url for url in urls if list(urls).count(url) > 1), None)
    if repeated is not None:
        raise ConfigError(f"--upstream: got {repeated} twice; allowed: once")
    connect_s = CONNECT_S if len(urls) > 1 else None
    return Replicas([Upstream(url, key, connect_s=connect_s, **options) for url in urls], urls)
