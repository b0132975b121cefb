"""A server of raw bytes behind a proxy: keeps what it was sent, and answers what a test gives it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from erecap.serving.background import running
from erecap.serving.proxy import create_proxy
from erecap.wrapping.calls import TextCalls, TextOptions
from erecap.wrapping.log import CallLog

ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@dataclass
class Behind:
    """Listens on a port of this machine; one answer a connection."""

    answer: bytes = b""
    head: list[bytes] = field(default_factory=list)  # lines of the newest request, the request line first
    body: bytes = b""

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def answers(
        self, body: bytes, *headers: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK"
    ) -> None:
        """Answer this from now on."""
        lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
        self.answer = b"\r\n".join(lines) + b"\r\n\r\n" + body

    def sent(self, name: bytes) -> list[bytes]:
        """Values of a header of the newest request."""
        pairs = [line.split(b": ", 1) for line in self.head[1:]]
        return [value for key, value in pairs if key.lower() == name]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # or the thread would wait on
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                lines = []
                while (line := file.readline().rstrip(b"\r\n")) != b"":
                    lines.append(line)
                if not lines:  # somebody looked whether the port is open
                    continue
                self.head = lines
                length = self.sent(b"content-length")
                self.body = file.read(int(length[0])) if length else b""
                with suppress(OSError):  # whoever asked is gone
                    connection.sendall(self.answer)


@contextmanager
def proxied(keep_tokens: int = 500, log: Path | None = None, **options: Any) -> Iterator[tuple[Behind, str]]:
    """A server of bytes, and the URL of a proxy before it."""
    behind = Behind()
    calls = TextCalls(TextOptions(keep_tokens=keep_tokens), CallLog(log, "proxy", "compact"))
    try:
        with running(create_proxy(f"{behind.url}/base/v1", calls, **options)) as url:
            yield behind, url
    finally:
        behind.close()


def asked(url: str, **changes: Any) -> httpx.Response:
    """A chat through the proxy."""
    return httpx.post(f"{url}/v1/chat/completions", json={**ASKED, **changes}, timeout=60)


def event(body: Any) -> bytes:
    """A server-sent event whose characters are not escaped."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"
