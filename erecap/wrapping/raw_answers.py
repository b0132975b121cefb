"""Answers that a host opens itself: raw responses, and context managers in which an answer is streamed."""

from __future__ import annotations

import inspect
from typing import Any

from erecap.wrapping.answers import text_of, usage_of
from erecap.wrapping.streams import Nested, Note, Unfinished, is_async_stream, is_stream, read_by, stream_of


def opens(result: Any) -> bool:
    """Return True for a context manager, in which an answer without a text of its own is streamed."""
    enters = hasattr(type(result), "__enter__") or hasattr(type(result), "__aenter__")
    return enters and text_of(result) is None


def is_raw(result: Any) -> bool:
    """Return True for a raw response of the packages `openai` and `anthropic`, whose `parse` gives the answer."""
    return hasattr(result, "http_response") and callable(getattr(result, "parse", None))


class RawAnswer(Unfinished):
    """A raw response: what `parse` gives is measured. One that was read whole is noted at once."""

    def __init__(self, target: Any, note: Note, nested: Nested, *, streamed: bool) -> None:
        super().__init__(target, note, nested)
        if not streamed and not opens(target) and not inspect.iscoroutinefunction(target.parse):
            self._noted = True
            parsed = read_by(target.parse)
            note(parsed, usage_of(parsed))

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """As the response's own."""
        parsed = self._target.parse(*args, **kwargs)
        return self._later(parsed) if inspect.isawaitable(parsed) else self._parsed(parsed)

    async def _later(self, parsed: Any) -> Any:
        return self._parsed(await parsed)

    def _parsed(self, parsed: Any) -> Any:
        if self._noted:
            return parsed
        if is_stream(parsed) or is_async_stream(parsed):
            return stream_of(parsed, self._noted_once, self._nested)
        self._noted_once(parsed, usage_of(parsed))
        return parsed

    def _noted_once(self, answer: Any, usage: dict[str, object]) -> None:
        if not self._noted:
            self._noted = True
            self._note(answer, usage)


class Opened(Unfinished):
    """A context manager in which an answer is streamed; noted when it is left."""

    _OWN = (*Unfinished._OWN, "_inner")

    def __enter__(self) -> Any:
        return self._entered(self._target.__enter__())

    def __exit__(self, *error: Any) -> Any:
        result = self._target.__exit__(*error)
        self._left()
        return result

    async def __aenter__(self) -> Any:
        return self._entered(await self._target.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:
        result = await self._target.__aexit__(*error)
        self._left()
        return result

    def _entered(self, inner: Any) -> Any:
        if is_raw(inner):
            inner = RawAnswer(inner, self._note, self._nested, streamed=True)
        elif is_stream(inner) or is_async_stream(inner):
            inner = stream_of(inner, self._note, self._nested)
        self._inner = inner
        return inner

    def _left(self) -> None:
        inner: Any = self.__dict__.get("_inner")
        ended = inner if issubclass(type(inner), Unfinished) else self
        ended._end()
