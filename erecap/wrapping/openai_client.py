"""A client of the package `openai`, sync or async, whose chat completions are sent a shorter history."""

from __future__ import annotations

import inspect
from typing import Any

from erecap.wrapping.calls import Call, TextCalls
from erecap.wrapping.proxies import Proxy
from erecap.wrapping.shadow import Shadow


class WrappedClient(Proxy):
    """The client: `chat.completions` shortens what it sends; everything else is the client's own."""

    @property
    def log(self) -> Any:
        return self._calls.log

    @property
    def chat(self) -> Any:
        return _Chat(self._target.chat, self._calls, self._shadow)

    def with_options(self, **options: Any) -> WrappedClient:
        """As the client's own, wrapped."""
        return WrappedClient(self._target.with_options(**options), self._calls, self._shadow)

    copy = with_options

    def __enter__(self) -> WrappedClient:
        self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._target.__exit__(*error)

    async def __aenter__(self) -> WrappedClient:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._target.__aexit__(*error)


class _Chat(Proxy):
    @property
    def completions(self) -> Any:
        return _Completions(self._target.completions, self._calls, self._shadow)


class _Completions(Proxy):
    """`create`, `parse` and `stream`, also behind `with_raw_response` and `with_streaming_response`."""

    def create(self, *, messages: Any, **options: Any) -> Any:
        """As the client's own; a coroutine where that is one."""
        return self._ask(self._target.create, messages, options)

    def parse(self, *, messages: Any, **options: Any) -> Any:
        """As the client's own; a coroutine where that is one."""
        return self._ask(self._target.parse, messages, options)

    def stream(self, *, messages: Any, **options: Any) -> Any:
        """As the client's own; noted when it is opened, without what is then streamed."""
        return self._ask(self._target.stream, messages, options)

    @property
    def with_raw_response(self) -> Any:
        return _Completions(self._target.with_raw_response, self._calls, self._shadow)

    @property
    def with_streaming_response(self) -> Any:
        return _Completions(self._target.with_streaming_response, self._calls, self._shadow)

    def _ask(self, method: Any, messages: Any, options: dict[str, Any]) -> Any:
        given = list(messages)
        call = self._calls.prepare(given, options)
        result = method(messages=call.shown, **options)
        if inspect.isawaitable(result):
            return self._awaited(result, call, method, given, options)
        number = self._noted(result, call)
        if number is not None:
            self._shadow.replay(number, _said(result), lambda: _said(method(messages=given, **options)))
        return self._answered(result, call)

    async def _awaited(self, result: Any, call: Call, method: Any, given: list, options: dict[str, Any]) -> Any:
        async def bare() -> str:
            return _said(await method(messages=given, **options))

        answered = await result
        number = self._noted(answered, call)
        if number is not None:
            self._shadow.replay_async(number, _said(answered), bare)
        return self._answered(answered, call)

    def _noted(self, result: Any, call: Call) -> int | None:
        """Note an answer that is whole; the number of its row."""
        if not hasattr(result, "choices"):
            return None
        return self._calls.note(call, _said(result), **_usage(result))

    def _answered(self, result: Any, call: Call) -> Any:
        if hasattr(result, "choices"):
            return result
        if hasattr(result, "__aiter__"):
            return _AsyncStream(result, self._calls, self._shadow, call)
        if hasattr(result, "__iter__"):
            return _Stream(result, self._calls, self._shadow, call)
        self._calls.note(call, "")  # a raw response, or what opens a stream
        return result


class _AnyStream(Proxy):
    """Hands chunks on, and notes the call when they end or the stream is closed before."""

    _OWN = ("_call", "_said", "_usage")

    def __init__(self, target: Any, calls: TextCalls, shadow: Shadow, call: Call) -> None:
        super().__init__(target, calls, shadow)
        self._call: Call | None = call
        self._said: list[str] = []
        self._usage: dict[str, object] = {}

    def _take(self, chunk: Any) -> Any:
        for choice in getattr(chunk, "choices", None) or []:
            if choice.index == 0 and choice.delta.content:
                self._said.append(choice.delta.content)
        self._usage = _usage(chunk) or self._usage
        return chunk

    def _end(self) -> None:
        if self._call is not None:
            call, self._call = self._call, None
            self._calls.note(call, "".join(self._said), **self._usage)


class _Stream(_AnyStream):
    def __iter__(self) -> Any:
        try:
            for chunk in self._target:
                yield self._take(chunk)
        finally:
            self._end()

    def __next__(self) -> Any:
        try:
            return self._take(next(self._target))
        except StopIteration:
            self._end()
            raise

    def __enter__(self) -> _Stream:
        self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """As the stream's own."""
        self._target.close()
        self._end()


class _AsyncStream(_AnyStream):
    async def __aiter__(self) -> Any:
        try:
            async for chunk in self._target:
                yield self._take(chunk)
        finally:
            self._end()

    async def __anext__(self) -> Any:
        try:
            return self._take(await self._target.__anext__())
        except StopAsyncIteration:
            self._end()
            raise

    async def __aenter__(self) -> _AsyncStream:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """As the stream's own."""
        await self._target.close()
        self._end()


def _said(response: Any) -> str:
    message = response.choices[0].message if response.choices else None
    return getattr(message, "content", None) or ""


def _usage(response: Any) -> dict[str, object]:
    """The server's token counts, for the log."""
    usage = getattr(response, "usage", None)
    if usage is None:
        return {}
    details = getattr(usage, "prompt_tokens_details", None)
    return {
        "server_prompt_tokens": usage.prompt_tokens,
        "server_cached_tokens": getattr(details, "cached_tokens", None) or 0,
        "server_completion_tokens": usage.completion_tokens,
    }
