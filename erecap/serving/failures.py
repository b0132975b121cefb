"""Failures in the OpenAI API's own format, so that its clients raise their own exceptions."""

from __future__ import annotations

from typing import Any


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
        """The JSON body."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def too_long(message: str) -> ApiFailure:
    """The prompt does not fit."""
    return ApiFailure(400, message, code="context_length_exceeded", param="messages")


def overloaded(message: str) -> ApiFailure:
    """The server cannot answer now."""
    return ApiFailure(503, message, "server_error", "overloaded")


def waited_too_long(seconds: float) -> ApiFailure:
    """The model did not turn to the request in time."""
    return overloaded(f"the request waited {seconds:.0f} s, longer than it may take")
