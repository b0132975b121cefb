"""Headers on their way through a proxy, as bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable

Header = tuple[bytes, bytes]

# Of one connection, not of the request (RFC 9110, 7.6.1), and what tells of proxies before this one.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer trailers transfer-encoding upgrade expect forwarded via x-real-ip".split()
)
_HOP_BY_HOP_PREFIXES = (b"proxy-", b"x-forwarded-")
# By these some servers go on with another path, host or method than those that were checked here.
_OVERRIDING = frozenset(
    b"x-original-url x-original-uri x-original-path x-original-host x-original-method x-rewrite-url x-rewrite-uri "
    b"x-host x-http-host-override x-http-method-override x-http-method x-method-override".split()
)
# Written anew for the body that is sent on.
_OF_BODY = frozenset((b"content-length",))
OF_REQUESTS = _OF_BODY | _OVERRIDING | {b"host", b"accept-encoding"}
# Bodies are sent on uncompressed; date and server are those of the server that the client talks to.
OF_ANSWERS = _OF_BODY | {b"content-encoding", b"date", b"server"}


def end_to_end(headers: Iterable[Header], dropped: Collection[bytes]) -> list[Header]:
    """The headers that are sent on, in their order, with names in lower case; several of one name stay several.

    Args:
        headers: names and values as they came.
        dropped: further names to leave out, in lower case.
    """
    found = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in found if name == b"connection" for word in value.split(b",")}
    kept = []
    for name, value in found:
        plain = plain_name(name)
        ends = plain in _HOP_BY_HOP or plain in dropped or plain.startswith(_HOP_BY_HOP_PREFIXES)
        if not ends and name not in named:
            kept.append((name, value))
    return kept


def plain_name(name: bytes) -> bytes:
    """A header's name as many servers read it: they take an underscore for a hyphen."""
    return name.lower().replace(b"_", b"-")
