"""Paths on their way through a proxy: below its base URL, or refused."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from erecap.serving.failures import ApiFailure, refuse

PATH = "erecap.path"  # key of a scope
_SEGMENT = re.compile(rb"[A-Za-z0-9._~!$&'()*+,=:@-]+")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_QUERY = re.compile(rb"[!-~]*")


class PlainPaths:
    """Plain ASGI that refuses odd paths before anybody routes by them; the scope of others has the path to ask.

    Args:
        app: the application behind.
        prefix: of the paths that are sent on; others are the application's own.
    """

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        # The path is unescaped, the raw one is as it was sent, which may be the address of another server.
        if scope["type"] == "http" and (scope["path"].startswith(self._prefix) or scope["raw_path"][:1] != b"/"):
            try:
                scope[PATH] = path_below(scope["raw_path"], self._prefix.encode(), scope["query_string"])
            except ApiFailure as failure:
                await refuse(send, failure)
                return
        await self._app(scope, receive, send)


def path_below(raw: bytes, prefix: bytes, query: bytes) -> bytes:
    """The path and query to ask below a base URL for a request at `prefix`, which is left out.

    Servers differ in how they read dots, slashes that are written as escapes, backslashes, or an escape of an escape.
    So only paths are sent on that all of them read alike: plain segments between single slashes.

    Args:
        raw: the path as it came, with its escapes.
        prefix: of the paths that are served, such as b"/v1".
        query: what follows the question mark.

    Raises:
        ApiFailure: with status 400, an odd path or query.
    """
    shown = raw[:80].decode("latin-1")
    if not raw.startswith(prefix + b"/"):
        raise ApiFailure(400, f"path: got {shown!r}; allowed: paths below {prefix.decode()}/")
    if _ESCAPE.search(raw):
        raise ApiFailure(400, f"path: got {shown!r}; allowed: % with two hexadecimal digits")
    segments = [unquote_to_bytes(segment) for segment in raw[len(prefix) + 1 :].split(b"/")]
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or not segment.strip(b"."):
            raise ApiFailure(
                400,
                f"path: got {shown!r}; allowed: segments of letters, digits and -._~!$&'()*+,=:@, none of dots alone",
            )
    if not _QUERY.fullmatch(query) or b"#" in query:
        raise ApiFailure(400, "query: has blanks or bytes beyond ASCII; allowed: they are escaped with %")
    path = "".join("/" + quote(segment, safe="!$&'()*+,=:@~") for segment in segments).encode()
    return path + (b"?" + query if query else b"")
