"""Notes of a proxy on answers: their text and token counts, as far as they can be told. Nothing in here fails.

An answer is whatever the server behind says. It was paid for, so it goes to the client; what in it is no text or no
count is not noted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_MOST_COUNT = 10**12  # tokens of a call; more is a slip of the server's
_MOST_LINE = 1 << 20  # bytes of an event that is looked into


def noted(content: bytes) -> tuple[str, dict[str, int]]:
    """Text and token counts of a whole answer, in the format of chat completions."""
    body = _parsed(content)
    return "".join(_texts(body, "message")), counts(body)


def counts(body: Any) -> dict[str, int]:
    """The counts of `usage`: `prompt`, `cached` and `completion`, as far as they are whole numbers from 0 up."""
    usage = _field(body, "usage")
    found = {
        "prompt": _field(usage, "prompt_tokens"),
        "cached": _field(_field(usage, "prompt_tokens_details"), "cached_tokens"),
        "completion": _field(usage, "completion_tokens"),
    }
    # A bool is an int to Python; NaN and infinity equal no int.
    return {
        name: int(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST_COUNT
        if value == int(value)
    }


class StreamBooks:
    """Reads along the events of a streamed answer.

    Lines end with a newline, before which there may be a carriage return. Other characters that Unicode counts as ends
    of lines stand in the middle of texts.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._texts: list[str] = []
        self._rest = b""  # of a line whose end has not come
        self._skips = False  # the line is too long to be kept

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def read(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if not self._skips:
                self._event(line)
            self._skips = False
        self._skips = self._skips or len(rest) > _MOST_LINE
        self._rest = b"" if self._skips else rest

    def _event(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        body = _parsed(line[5:].strip())
        self._texts += _texts(body, "delta")
        self.counts = counts(body) or self.counts


def _texts(body: Any, of: str) -> Iterator[str]:
    """The text of the first choice, if it has one."""
    choices = _field(body, "choices")
    if isinstance(choices, list) and choices:
        content = _field(_field(choices[0], of), "content")
        if isinstance(content, str):
            yield content


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested without end
        return None


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None
