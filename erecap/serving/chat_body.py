"""The body of a chat on its way through a proxy: read, and written again with fewer messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from erecap.serving.failures import ApiFailure


class RawNumber(float):
    """A number as it was written: with its digits, which a float may have no room for."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __new__(cls, text: str) -> RawNumber:
        return super().__new__(cls, text)


class ChatBody:
    """A request with messages.

    Attributes:
        asked: its fields.

    Args:
        content: JSON.

    Raises:
        ApiFailure: no JSON, nested too deeply, or without a list of messages.
    """

    def __init__(self, content: bytes) -> None:
        self._twice: str | None = None  # a key that an object has more than once
        try:
            asked = json.loads(
                content,
                parse_float=RawNumber,
                parse_constant=RawNumber,
                parse_int=_whole,
                object_pairs_hook=self._object,
            )
        except ValueError as error:
            raise ApiFailure(400, f"the body is no JSON: {error}") from error
        except RecursionError as error:
            raise _too_deep() from error
        if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
            raise ApiFailure(400, "messages: missing; it must be a list of messages", param="messages")
        self.asked: dict[str, Any] = asked

    def shortened(self, messages: Sequence[Any], fields: Mapping[str, Any] | None = None) -> bytes:
        """The request with these messages instead, and with more fields. All numbers have the digits they came with.

        Raises:
            ApiFailure: an object has a key twice, so that nobody knows which one counts; or it is nested too deeply.
        """
        if self._twice is not None:
            words = f"the body has the key {self._twice!a:.60} twice in one object"
            raise ApiFailure(400, f"{words}; a chat that has to be shortened may have it once")
        try:
            # Escaped: a client may send half of a surrogate pair, and what that means is for the server behind to say.
            return _written({**self.asked, "messages": list(messages), **(fields or {})}).encode("ascii")
        except RecursionError as error:
            raise _too_deep() from error

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and self._twice is None:
            seen: set[str] = set()
            self._twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return found


def _whole(text: str) -> int | RawNumber:
    return RawNumber(text) if text == "-0" else int(text)


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return value.text if isinstance(value, RawNumber) else json.dumps(value)


def _too_deep() -> ApiFailure:
    return ApiFailure(400, "the body is nested too deeply")
