"""Answers that come bit by bit: handed on as they are, and noted when they have ended."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from erecap.wrapping.answers import field_of, piece_of, said_by, text_of, usage_of
from erecap.wrapping.stand_ins import StandIn

Note = Callable[..., Any]  # of an answer's text, and the server's counts
Nested = Callable[[], Any]  # a context in which the target's calls of itself pass


def is_stream(result: Any) -> bool:
    """Return True for what gives its items by `next`."""
    return hasattr(type(result), "__next__")


def is_async_stream(result: Any) -> bool:
    """Return True for what gives its items by `anext`."""
    return hasattr(type(result), "__anext__")


def opens(result: Any) -> bool:
    """Return True for a context manager, in which an answer without a text of its own is streamed."""
    enters = hasattr(type(result), "__enter__") or hasattr(type(result), "__aenter__")
    return enters and text_of(result) is None


def is_raw(result: Any) -> bool:
    """Return True for a raw response of the packages `openai` and `anthropic`, whose `parse` gives the answer."""
    return hasattr(result, "http_response") and callable(getattr(result, "parse", None))


class _Unfinished(StandIn):
    """Passes on everything to `target`, and notes the call once."""

    _OWN = ("_target", "_note", "_nested", "_said", "_usage", "_noted", "_streamed", "_inner")

    def __init__(self, target: Any, note: Note, nested: Nested) -> None:
        self._target, self._note, self._nested = target, note, nested
        self._said, self._usage, self._noted = "", {}, False  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        if name in _Unfinished._OWN:  # not set yet: copying asks before __init__ has run
            raise AttributeError(name)
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _Unfinished._OWN:
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


class Stream(_Unfinished):
    """An iterator or generator; one that can also be iterated asynchronously is measured either way."""

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

    def _step(self, step: Callable[[], Any]) -> Any:
        try:
            with self._nested():
                chunk = step()
        except BaseException:  # its end, or its failure
            self._end()
            raise
        return self._take(chunk)

    def __aiter__(self) -> Any:
        return _async_items(self)

    async def __anext__(self) -> Any:
        return await _async_step(self, lambda: self._target.__anext__())

    def close(self) -> Any:
        """As the stream's own; a coroutine where that is one."""
        result = getattr(self._target, "close", lambda: None)()
        self._end()
        return result

    def __enter__(self) -> Stream:
        self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        result = self._target.__exit__(*error)
        self._end()
        return result


class AsyncStream(_Unfinished):
    """An asynchronous iterator or generator."""

    def __aiter__(self) -> Any:
        return _async_items(self)

    async def __anext__(self) -> Any:
        return await _async_step(self, lambda: self._target.__anext__())

    async def asend(self, value: Any) -> Any:
        """As the generator's own."""
        return await _async_step(self, lambda: self._target.asend(value))

    async def athrow(self, *error: Any) -> Any:
        """As the generator's own."""
        return await _async_step(self, lambda: self._target.athrow(*error))

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

    async def __aenter__(self) -> AsyncStream:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        result = await self._target.__aexit__(*error)
        self._end()
        return result


async def _async_items(stream: Any) -> AsyncIterator[Any]:
    try:
        while True:
            yield await stream.__anext__()
    except StopAsyncIteration:
        return
    finally:
        stream._end()


async def _async_step(stream: _Unfinished, step: Callable[[], Any]) -> Any:
    try:
        with stream._nested():
            chunk = await step()
    except BaseException:  # its end, its failure, or a host that does not wait for it
        stream._end()
        raise
    return stream._take(chunk)


class RawAnswer(_Unfinished):
    """A raw response: what `parse` gives is measured. One that was read whole is noted at once."""

    def __init__(self, target: Any, note: Note, nested: Nested, *, streamed: bool) -> None:
        super().__init__(target, note, nested)
        self._streamed = streamed
        if not streamed and not opens(target) and not inspect.iscoroutinefunction(target.parse):
            self._noted = True
            parsed = _read_by(target.parse)
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
        if is_stream(parsed):
            return Stream(parsed, self._noted_once, self._nested)
        if is_async_stream(parsed):
            return AsyncStream(parsed, self._noted_once, self._nested)
        self._noted_once(parsed, usage_of(parsed))
        return parsed

    def _noted_once(self, answer: Any, usage: dict[str, object]) -> None:
        if not self._noted:
            self._noted = True
            self._note(answer, usage)


class Opened(_Unfinished):
    """A context manager in which an answer is streamed; noted when it is left."""

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
        elif is_async_stream(inner) and not is_stream(inner):
            inner = AsyncStream(inner, self._note, self._nested)
        elif is_stream(inner):
            inner = Stream(inner, self._note, self._nested)
        self._inner = inner
        return inner

    def _left(self) -> None:
        inner: Any = self.__dict__.get("_inner")
        ended = inner if issubclass(type(inner), _Unfinished) else self
        ended._end()


def _final(target: Any) -> Any:
    """What a stream of the packages `openai` and `anthropic` has put together; a host may have let it do so itself."""
    for name in ("current_completion_snapshot", "current_message_snapshot"):
        if hasattr(type(target), name):
            return _read_by(lambda name=name: getattr(target, name))  # type: ignore[misc]
    return None


def _read_by(read: Callable[[], Any]) -> Any:
    """The value that `read` gives; None where it fails: the log needs it, and the host has its answer already."""
    try:
        return read()
    except Exception:  # noqa: BLE001 (whatever a foreign client raises about an answer that it cannot read)
        return None
