"""Answers that come bit by bit: handed on as they are, and noted when they have ended."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

from erecap.wrapping.answers import field_of, piece_of, said_by, usage_of
from erecap.wrapping.stand_ins import StandIn

Note = Callable[..., Any]  # of an answer's text, and the server's counts
Nested = Callable[[], Any]  # a context in which the target's calls of itself pass


def is_stream(result: Any) -> bool:
    """Return True for what gives its items by `next`."""
    return hasattr(type(result), "__next__")


def is_async_stream(result: Any) -> bool:
    """Return True for what gives its items by `anext`."""
    return hasattr(type(result), "__anext__")


class Unfinished(StandIn):
    """Passes on everything to `target`, and notes the call once."""

    _OWN: tuple[str, ...] = ("_target", "_note", "_nested", "_said", "_usage", "_noted")

    def __init__(self, target: Any, note: Note, nested: Nested) -> None:
        self._target, self._note, self._nested = target, note, nested
        self._said, self._usage, self._noted = "", {}, False  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        if name in self._OWN:  # not set yet: copying asks before __init__ has run
            raise AttributeError(name)
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._target, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._target)

    def _take(self, chunk: Any) -> Any:
        self._said += piece_of(chunk, self._said)
        counted = (usage_of(part) for part in (chunk, field_of(chunk, "response"), field_of(chunk, "message")))
        self._usage = next((usage for usage in counted if usage), self._usage)
        return chunk

    def _end(self) -> None:
        if not self._noted:
            self._noted = True
            final = _final(self._target)
            self._note(self._said or said_by(final), self._usage or usage_of(final))


class Stream(Unfinished):
    """An iterator or generator."""

    def __iter__(self) -> Any:
        sent = None
        try:
            while True:
                sent = yield (next(self) if sent is None else self.send(sent))
        except StopIteration as end:
            return end.value
        finally:  # also where a host stops listening, and lets it go
            self._end()

    def __next__(self) -> Any:
        return self._step(lambda: next(self._target))

    def send(self, value: Any) -> Any:
        """As the generator's own."""
        return self._step(lambda: self._target.send(value))

    def throw(self, *error: Any) -> Any:
        """As the generator's own."""
        return self._step(lambda: self._target.throw(*error))

    def close(self) -> Any:
        """As the stream's own; a coroutine where that is one."""
        result = getattr(self._target, "close", lambda: None)()
        self._end()
        return result

    def _step(self, step: Callable[[], Any]) -> Any:
        try:
            with self._nested():
                chunk = step()
        except BaseException:  # its end, or its failure
            self._end()
            raise
        return self._take(chunk)


class AsyncStream(Unfinished):
    """An asynchronous iterator or generator."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while True:
                yield await self.__anext__()
        except StopAsyncIteration:
            return
        finally:
            self._end()

    async def __anext__(self) -> Any:
        return await self._async_step(lambda: self._target.__anext__())

    async def asend(self, value: Any) -> Any:
        """As the generator's own."""
        return await self._async_step(lambda: self._target.asend(value))

    async def athrow(self, *error: Any) -> Any:
        """As the generator's own."""
        return await self._async_step(lambda: self._target.athrow(*error))

    async def aclose(self) -> None:
        """As the stream's own."""
        await self._target.aclose()
        self._end()

    async def close(self) -> Any:
        """As the stream's own."""
        result = self._target.close()
        result = await result if inspect.isawaitable(result) else result
        self._end()
        return result

    async def _async_step(self, step: Callable[[], Any]) -> Any:
        try:
            with self._nested():
                chunk = await step()
        except BaseException:  # its end, its failure, or a host that does not wait for it
            self._end()
            raise
        return self._take(chunk)


class _Enters(Unfinished):
    """A stream that a `with` block closes."""

    def __enter__(self) -> Any:
        self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        result = self._target.__exit__(*error)
        self._end()
        return result


class _EntersLater(Unfinished):
    """A stream that an `async with` block closes."""

    async def __aenter__(self) -> Any:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        result = await self._target.__aexit__(*error)
        self._end()
        return result


_ABILITIES = (("__next__", Stream), ("__anext__", AsyncStream), ("__enter__", _Enters), ("__aenter__", _EntersLater))


def stream_of(target: Any, note: Note, nested: Nested) -> Any:
    """A stream with the abilities of `target` and no others, since hosts look at what a stream can do."""
    return _kind(tuple(base for name, base in _ABILITIES if hasattr(type(target), name)))(target, note, nested)


@cache
def _kind(bases: tuple[type, ...]) -> Any:
    return type("Stream", bases, {})


def _final(target: Any) -> Any:
    """What a stream of the packages `openai` and `anthropic` has put together; a host may have let it do so itself."""
    for name in ("current_completion_snapshot", "current_message_snapshot"):
        if hasattr(type(target), name):
            return read_by(lambda name=name: getattr(target, name))  # type: ignore[misc]
    return None


def read_by(read: Callable[[], Any]) -> Any:
    """The value that `read` gives; None where it fails: the log needs it, and the host has its answer already."""
    try:
        return read()
    except Exception:  # noqa: BLE001 (whatever a foreign client raises about an answer that it cannot read)
        return None
