"""Checks before every request that a web page could have made in somebody's browser. Plain ASGI.

A server on this machine without a key trusts all programs of this machine, and a browser is one of them. A page of
another site can send requests here: under a name of its own that it lets point to 127.0.0.1 (DNS rebinding), or as
forms, whose content types need nobody's permission. Neither is answered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from erecap.serving.failures import ApiFailure, refuse

JSON = "application/json"
MULTIPART = "multipart/form-data"


class Guard:
    """Refuses requests by their headers `Host`, `Origin` and `Content-Type`.

    Args:
        app: the application behind.
        hosts: names besides those of this machine under which it may be asked; None: any, from pages of any origin.
        types: content types that a request with a body may have.
    """

    def __init__(self, app: Any, hosts: Collection[str] | None, types: Collection[str] = (JSON,)) -> None:
        self._app, self._types = app, types
        self._hosts = None if hosts is None else {name.lower() for name in hosts}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        failure = self._failure(scope) if scope["type"] == "http" else None
        if failure is None:
            await self._app(scope, receive, send)
        else:
            await refuse(send, failure)

    def _failure(self, scope: dict[str, Any]) -> ApiFailure | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts is not None:
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            if not self._known(f"//{host}"):
                return ApiFailure(421, f"Host: got {host!r}; allowed: localhost, or a name given by --allow-host")
            if origin is not None and not self._known(origin):
                return ApiFailure(403, f"Origin: got {origin!r}; pages of other sites may not use this server")
        has_body = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if has_body and kind not in self._types:
            words = f"Content-Type: got {kind or 'none'!r}; allowed: {' or '.join(self._types)}"
            return ApiFailure(415, words)
        return None

    def _known(self, address: str) -> bool:
        """True if an address (`//host:port`, with a scheme or without) is one of this machine, or allowed."""
        try:
            found = urlsplit(address)
            host, _ = (found.hostname or "").lower(), found.port
        except ValueError:  # brackets or a port that cannot be
            return False
        if "@" in found.netloc or found.path or found.query or found.fragment:
            return False
        assert self._hosts is not None, "only asked where names are checked"
        return host in self._hosts or is_loopback(host)


def is_loopback(host: str) -> bool:
    """True for addresses and the name that lead to this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
