"""Failures in the OpenAI API's own format, so that its clients raise their own exceptions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]


class ApiFailure(Exception):
    """A failure as the client receives it.

    Args:
        status: of HTTP.
        message: one line: what, where, what is allowed.
        kind: as the OpenAI API calls it, such as `invalid_request_error`.
        code: a word for programs, or None.
        param: the field of the request, or None.
    """

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None,
        param: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param

    def body(self) -> dict[str, Any]:
        """The JSON body. What a message repeats of a request may be half a surrogate pair, which no answer holds."""
        message = str(self).encode("utf-8", "replace").decode("utf-8")
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def too_long(message: str) -> ApiFailure:
    """The prompt does not fit."""
    return ApiFailure(400, message, code="context_length_exceeded", param="messages")


def overloaded(message: str) -> ApiFailure:
    """The server cannot answer now."""
    return ApiFailure(503, message, "server_error", "overloaded")


def client_gone() -> ApiFailure:
    """Nobody waits for the answer any more."""
    return ApiFailure(499, "the client is gone", "server_error", "cancelled")


def waited_too_long(seconds: float) -> ApiFailure:
    """The model did not turn to the request in time."""
    return overloaded(f"the request waited {seconds:.0f} s, longer than it may take")


async def refuse(send: Send, failure: ApiFailure) -> None:
    """Answer an ASGI request with a failure."""
    body = json.dumps(failure.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
