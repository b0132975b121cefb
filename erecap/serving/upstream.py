"""The server behind a proxy: its checked address, requests to it, and bounded reading of what it answers."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx
from fastapi import Request

from erecap.errors import ConfigError
from erecap.serving.failures import ApiFailure
from erecap.serving.headers import OF_REQUESTS, Header, end_to_end, plain_name
from erecap.serving.paths import path_below
from erecap.serving.unpacking import ENCODINGS, Unpacker

# Where clients put keys. None of theirs goes beside one of ours.
_KEYS = {b"authorization", b"api-key", b"x-api-key"}
_HOST = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


class Lost(ApiFailure):
    """A server that cannot be reached, or that breaks off: another one may answer."""

    def __init__(self, words: str) -> None:
        super().__init__(502, words, "server_error", "upstream")


def checked_url(url: str) -> httpx.URL:
    """The base URL of the server behind.

    Raises:
        ConfigError: another scheme than http and https, no host, credentials, a query, or a path with odd segments.
    """
    try:
        parts, found = urlsplit(url), httpx.URL(url)
        credentials, _ = "@" in parts.netloc, parts.port
    except (ValueError, httpx.InvalidURL) as error:
        words = "no URL" if "@" in url else error  # the error may repeat a password
        raise ConfigError(f"--upstream: {words}; allowed: such as https://api.example.com/v1") from error
    if credentials:  # not repeated: they would stand in a log
        raise ConfigError("--upstream: has a name or password; name its key's variable by --upstream-key-env instead")
    named = _HOST.fullmatch(found.raw_host) and "\\" not in parts.netloc
    if found.scheme not in ("http", "https") or not named or parts.query or parts.fragment:
        raise ConfigError(
            f"--upstream: got {url!r}; allowed: http or https, a host and a path, such as http://x:8000/v1"
        )
    path = parts.path.rstrip("/").encode("utf-8", "replace")
    try:
        base = path_below(path, b"", b"") if path else b""
    except ApiFailure as failure:
        raise ConfigError(f"--upstream: {failure}") from failure
    return found.copy_with(raw_path=base or b"/")


def answers(url: httpx.URL, seconds: float = 3.0) -> bool:
    """True if something accepts a connection there now."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.host, port), seconds).close()
    except OSError:
        return False
    return True


class Upstream:
    """The server behind.

    Args:
        url: as `checked_url` takes it.
        key: sent to it instead of what clients sent; None: none of ours.
        passes_keys: without `key`, whether the clients' own keys go to it: not where they are keys of the proxy.
        request_s: how long a request may take.
        most_bytes: of an answer, uncompressed.
        connect_s: within which it must take a connection; None: within `request_s`.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        passes_keys: bool,
        request_s: float,
        most_bytes: int,
        connect_s: float | None = None,
    ) -> None:
        self._base = checked_url(url)
        self._key, self._passes_keys, self._most = key, passes_keys, most_bytes
        # One client's cookies are not another's: nothing is remembered between calls.
        forgetful = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._request_s = request_s
        # Times are limited for the whole request: whoever sends a byte now and then could hold it forever.
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=connect_s), cookies=forgetful)

    def until(self) -> float:
        """The time of the event loop when a request that begins now has to be over."""
        return asyncio.get_running_loop().time() + self._request_s

    async def ask(self, request: Request, path: bytes, body: bytes, until: float) -> httpx.Response:
        """Send a request on; its answer has begun, and is to be closed.

        Args:
            path: as of `path_below`.
            until: when it has to be over.

        Raises:
            ApiFailure: it cannot be reached, takes too long, or answers with a status that is none.
        """
        base = self._base.raw_path.rstrip(b"/")
        made = self._client.build_request(
            request.method, self._base.copy_with(raw_path=base + path), headers=self._headers(request), content=body
        )
        assert made.url.raw_path.startswith(base + b"/"), "paths were checked, and only go down"
        try:
            async with in_time(until):
                answer = await self._client.send(made, stream=True)
        except httpx.HTTPError as error:
            raise Lost(f"the server behind cannot be reached: {error!r}") from error
        if not 200 <= answer.status_code < 600:
            await answer.aclose()
            raise _broken(f"the server behind answered with the status {answer.status_code}, which no answer has")
        encoding = _encoding(answer)
        if encoding not in ENCODINGS:  # the expansion of these is bounded by their size: a thousand times at most
            await answer.aclose()
            raise _broken(f"the server behind answered in the encoding {encoding!r:.40}, which was not asked for")
        return answer

    async def chunks(self, answer: httpx.Response, until: float) -> AsyncGenerator[bytes, None]:
        """The body as it comes, uncompressed. The answer is closed at its end, whatever ends it.

        Raises:
            ApiFailure: it breaks off, is damaged, is larger than allowed, or has not ended at the time `until`.
        """
        read, coming = 0, answer.aiter_raw()
        packed = Unpacker(_encoding(answer))
        try:
            while True:
                async with in_time(until):
                    packet = await anext(coming, None)
                if packet is None:
                    packed.end()
                    return
                chunk = packed.read(packet)
                read += len(chunk)
                if read > self._most:
                    raise _broken(f"the answer of the server behind is larger than {self._most} bytes")
                if chunk:  # an empty one would end a response in chunks
                    yield chunk
        except httpx.HTTPError as error:
            raise Lost(f"the server behind broke off: {error!r}") from error
        except ValueError as error:
            raise _broken(f"the answer of the server behind cannot be unpacked: {error}") from error
        finally:
            await answer.aclose()

    async def whole(self, answer: httpx.Response, until: float) -> bytes:
        """The whole body. Raises as `chunks`."""
        return b"".join([chunk async for chunk in self.chunks(answer, until)])

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()

    def _headers(self, request: Request) -> list[Header]:
        kept = end_to_end(request.headers.raw, OF_REQUESTS)
        if self._key is not None:
            kept = [(name, value) for name, value in kept if plain_name(name) not in _KEYS]
            kept.append((b"authorization", b"Bearer " + self._key.encode()))
        elif not self._passes_keys:
            kept = [(name, value) for name, value in kept if name != b"authorization"]
        return [*kept, (b"accept-encoding", b"gzip, deflate")]


@asynccontextmanager
async def in_time(until: float) -> AsyncIterator[None]:
    """Cancel what is awaited inside when the event loop's time is `until`.

    Raises:
        ApiFailure: it was not done by then.
    """
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError as error:
        raise ApiFailure(504, "the request took longer than it may", "server_error", "timeout") from error


def _encoding(answer: httpx.Response) -> str:
    return answer.headers.get("content-encoding", "").strip().lower()


def _broken(words: str) -> ApiFailure:
    return ApiFailure(502, words, "server_error", "upstream")
