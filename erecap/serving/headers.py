"""Headers and paths on their way through a proxy, as bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from urllib.parse import quote, unquote_to_bytes

from erecap.serving.failures import ApiFailure

Header = tuple[bytes, bytes]

# Of one connection, not of the request (RFC 9110, 7.6.1), and what tells of proxies before this one.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer trailers transfer-encoding upgrade expect forwarded via x-forwarded-for "
    b"x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip".split()
)
# Written anew for the body that is sent on.
_OF_BODY = frozenset((b"content-length",))
OF_REQUESTS = _OF_BODY | {b"host", b"accept-encoding"}
# Bodies are sent on uncompressed; date and server are those of the server that the client talks to.
OF_ANSWERS = _OF_BODY | {b"content-encoding", b"date", b"server"}

_SEGMENT = re.compile(rb"[A-Za-z0-9._~!$&'()*+,=:@-]+")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_QUERY = re.compile(rb"[!-~]*")


def end_to_end(headers: Iterable[Header], dropped: Collection[bytes]) -> list[Header]:
    """The headers that are sent on, in their order, with names in lower case; several of one name stay several.

    Args:
        headers: names and values as they came.
        dropped: further names to leave out, in lower case.
    """
    found = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in found if name == b"connection" for word in value.split(b",")}
    return [
        (name, value)
        for name, value in found
        if name not in _HOP_BY_HOP and name not in named and name not in dropped and not name.startswith(b"proxy-")
    ]


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
                400, f"path: got {shown!r}; allowed: segments of letters, digits and -._~!$&'()*+,=:@, none of dots alone"
            )
    if not _QUERY.fullmatch(query) or b"#" in query:
        raise ApiFailure(400, "query: has blanks or bytes beyond ASCII; allowed: they are escaped with %")
    path = "".join("/" + quote(segment, safe="!$&'()*+,=:@~") for segment in segments).encode()
    return path + (b"?" + query if query else b"")
