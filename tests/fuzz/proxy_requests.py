"""Random and hostile requests through a proxy, to a server that answers anything.

    python -m tests.fuzz.proxy_requests --count 20000 --seed 0

prints one line of figures, and ends with 1 where a request left the base path, a header went where it must not, an
answer was changed or lost, or the proxy failed itself.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.serving.recorded import Behind, proxied

# What the proxy says itself; everything else is the status of the server behind.
OWN = {400, 403, 404, 405, 413, 415, 421, 502}
BEHIND = (b"200 OK", b"201 Created", b"204 No Content", b"401 Unauthorized", b"418 Teapot", b"429 Too Many Requests")
PIECES = (
    "/v1/", "/v1", "chat/completions", "models", "..", ".", "%2e", "%2E%2e", "%2f", "%5c", "\\", "/", "//", ";", "%25",
    "%00", "%0d%0a", "a", "%c0%ae", "%ef%bc%8f", "?x=1", "?", "#", "http://evil.test", "@", ":", "%", "admin", "~",
)  # fmt: skip
HEADERS = (
    (b"Connection", b"close, X-Secret"),
    (b"X-Secret", b"1"),
    (b"Proxy-Authorization", b"Basic x"),
    (b"TE", b"trailers"),
    (b"X-Forwarded-For", b"1.2.3.4"),
    (b"X-Odd", b"caf\xc3\xa9 \xff"),
    (b"Cookie", b"a=1"),
    (b"Upgrade", b"websocket"),
    (b"Origin", b"http://evil.test"),
    (b"Origin", b"http://localhost"),
    (b"Content-Type", b"text/plain"),
    (b"Authorization", b"Bearer client"),
    (b"Expect", b"nothing"),
    (b"Via", b"1.1 x"),
    (b"Content-Encoding", b"gzip"),
    (b"X-Original-URL", b"/admin"),
    (b"X_Rewrite_Url", b"/admin"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"X-Forwarded-Prefix", b"/admin"),
)
NEVER_BEHIND = {
    b"proxy-authorization", b"te", b"x-forwarded-for", b"x-forwarded-prefix", b"upgrade", b"via", b"expect",
    b"x-original-url", b"x_rewrite_url", b"x-http-method-override",
}  # fmt: skip


@dataclass
class Report:
    """The figures of a series of requests."""

    requests: int = 0
    passed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures, in one line."""
        counts = " ".join(f"{status}:{count}" for status, count in sorted(self.statuses.items()))
        return f"requests {self.requests} ({counts}), passed on {self.passed}, faults {len(self.faults)}"


class Tracebacks(logging.Handler):
    """Collects what is logged with a traceback."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        if record.exc_info:
            self._report.faults.append(self.format(record))


def ask(count: int, seed: int) -> Report:
    """Send so many requests, one after the other."""
    draw, report = random.Random(seed), Report()
    handler = Tracebacks(report)
    logging.getLogger().addHandler(handler)
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        with proxied(hosts=[], most_bytes=20_000, most_answer_bytes=200_000) as (behind, url):
            for _ in range(count):
                _one(behind, url, draw, report)
            _, page = _sent(url, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if b"erecap_unnoted_total 0.0" not in page:
                report.faults.append("calls were not noted")
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("uvicorn.error").removeHandler(handler)
    return report


def _one(behind: Behind, url: str, draw: random.Random, report: Report) -> None:
    answer, status = _answer(behind, draw)
    behind.head, behind.body = [], b""
    request, body = _request(draw)
    head, got = _sent(url, request)
    said = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
    report.requests += 1
    report.statuses[said] += 1

    def fault(words: str) -> None:
        report.faults.append(f"{words}: {request[:300]!r} -> {head[:200]!r} {got[:200]!r}, behind {behind.head[:3]!r}")

    if not behind.head:
        if said not in OWN:
            fault("a status that is not the proxy's own")
        return
    report.passed += 1
    target = behind.head[0].split(b" ")[1].partition(b"?")[0]
    names = {line.split(b":")[0].lower() for line in behind.head[1:]}
    if not target.startswith(b"/base/v1/") or b".." in target.split(b"/") or b"%2" in target or b"\\" in target:
        fault("left the base path")
    named = {b"x-secret"} if b"X-Secret\r\n" in request.partition(b"\r\n\r\n")[0] else set()
    if names & (NEVER_BEHIND | named) or any(name.startswith(b"proxy-") for name in names):
        fault("a header of the connection went on")
    if said == 502:
        if answer is not None:
            fault("an answer was lost")
    elif said != status:
        fault(f"the status was {status}")
    elif answer is not None and got != (b"" if status == 204 else answer):
        fault("an answer was changed")
    if behind.body != body and b"chat/completions" not in target:
        fault("a body was changed")


def _answer(behind: Behind, draw: random.Random) -> tuple[bytes | None, int]:
    """Set the next answer; its body as a client should get it (None: it cannot), and its status."""
    choices = draw.choice([None, [], [None], [{"message": None}], [{"message": {"content": 5}}], "x"])
    usage = draw.choice([None, [], {"prompt_tokens": draw.choice([-1, True, None, 1e300, 7])}])
    odd = json.dumps({"choices": choices, "usage": usage}).encode()
    stream = 'data: {"choices": [{"delta": {"content": "a\u2028b\x85"}}]}\r\n\r\ndata: [DONE]\n\n'.encode()
    noise = draw.randbytes(draw.randint(0, 3000))
    bodies = [b"", b"x", b"\xff\xfe", b"data: {}\n\n", b"[" * 3000, noise, odd, stream, b" " * 250_000]
    body, status = draw.choice(bodies), draw.choice(BEHIND)
    if draw.random() < 0.03:
        status = b"600 Nothing"  # which the proxy cannot pass on
    body = b"" if status.startswith(b"204") else body
    kind, packed = draw.choice((b"application/json", b"text/event-stream", b"text/html")), draw.random() < 0.2
    more = [b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Odd: \xe9"][: draw.randint(0, 3)]
    if packed and body:
        behind.answers(gzip.compress(body), *more, b"Content-Encoding: gzip", kind=kind, status=status)
    else:
        behind.answers(body, *more, kind=kind, status=status)
    whole = len(body) <= 200_000 and not status.startswith(b"6")
    if draw.random() < 0.1 and body:
        behind.answer, whole = behind.answer[:-1], False
    return body if whole else None, int(status[:3])


def _request(draw: random.Random) -> tuple[bytes, bytes]:
    path = "/v1/" + draw.choice(("chat/completions", "models", "x/y-z"))
    if draw.random() < 0.4:
        path = draw.choice(("/v1/", "", "/")) + "".join(draw.choices(PIECES, k=draw.randint(1, 5)))
    message: Any = {"role": "user", "content": draw.choice(["x", "y", "\ud800", None, 5])}
    message = draw.choice([message, message, message, {"content": "x"}, 5])
    chat: dict[str, Any] = {"messages": draw.choice([[], None, "x", *[[message]] * 4])}
    chat |= {"stream": draw.choice([True, False, None, "yes"])}
    bodies = (json.dumps(chat).encode(), b"", b"{", b"[" * 2000, b"null", b"9" * 5000, b"x" * 30_000)
    body = draw.choice(bodies) if draw.random() < 0.9 else draw.randbytes(50)
    method = draw.choice((b"POST", b"POST", b"GET", b"DELETE", b"PUT"))
    lines = [
        method + b" " + (path.encode() or b"/") + b" HTTP/1.1",
        b"Host: " + draw.choice((b"localhost",) * 9 + (b"evil",)),
    ]
    chosen = draw.sample(HEADERS, draw.randint(0, 4))
    if b"Content-Type" not in dict(chosen):
        lines.append(b"Content-Type: application/json")
    lines += [name + b": " + value for name, value in chosen]
    if b"Connection" not in dict(chosen):
        lines.append(b"Connection: close")
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body, body


def _sent(url: str, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request that goes over the line as it is."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), 30) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    head, _, rest = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return head, rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    return head, body


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    report = ask(given.count, given.seed)
    print(report.line(), *report.faults[:20], sep="\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
