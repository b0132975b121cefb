"""A call of somebody else's planner: find the history, show less of it, hand on the rest, and measure it to its end."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from erecap.wrapping.answers import usage_of
from erecap.wrapping.calls import Call, TextCalls
from erecap.wrapping.edit_fields import with_edits
from erecap.wrapping.histories import Slot, find_history, is_batch, is_history, is_parts, replaced
from erecap.wrapping.raw_answers import Opened, RawAnswer, is_raw, opens
from erecap.wrapping.shadow import Shadow, as_it_is
from erecap.wrapping.streams import is_async_stream, is_stream, stream_of

# Calls in progress. A method that asks another one of the same object has shortened the history already.
_inside: ContextVar[tuple[int, ...]] = ContextVar("erecap_inside", default=())


class Asker:
    """Asks a method with less of its history and notes the call.

    Args:
        calls: shortens and notes.
        shadow: repeats some of the calls.
        strict: a call without a history is an error, because then the wrong function was wrapped. Otherwise it passes:
            clients and models have calls of several kinds.
    """

    def __init__(self, calls: TextCalls, shadow: Shadow, *, strict: bool) -> None:
        self.calls, self.shadow, self.strict = calls, shadow, strict
        self.asked = 0  # calls of the methods that are shortened
        self.said: set[str] = set()  # methods that are not, and of which a warning has said so

    def is_inside(self) -> bool:
        """Return True while a method that is shortened works."""
        return id(self.calls) in _inside.get()

    def ask(
        self, method: Callable[..., Any], names: Sequence[str] | None, args: tuple, kwargs: dict, *, named: bool
    ) -> Any:
        """The answer of `method`, of the kind that it gives: a value, an awaitable, a stream or a context manager.

        Args:
            method: the target's own.
            names: of its positional parameters.
            args: as the host gave them.
            kwargs: as the host gave them.
            named: as for `find_history`.

        Raises:
            ConfigError: what stands in the place of the history is none, where that is an error.
        """
        if self.is_inside():
            return method(*args, **kwargs)
        self.asked += 1
        asked = _Asked(self, method, find_history(names, args, kwargs, named=named, strict=self.strict), args, kwargs)
        with self.nested():
            result = method(*asked.args, **asked.kwargs)
        return asked.answered(result)

    @contextlib.contextmanager
    def nested(self) -> Iterator[None]:
        """While the target works, its own calls of itself pass as they are."""
        token = _inside.set((*_inside.get(), id(self.calls)))
        try:
            yield
        finally:
            _inside.reset(token)


class _Asked:
    """One call that was prepared: what is sent, and what has to be noted when it is answered."""

    def __init__(self, asker: Asker, method: Callable[..., Any], slot: Slot | None, args: tuple, kwargs: dict) -> None:
        self._asker, self._method = asker, method
        if slot is None:
            self._calls = [asker.calls.pass_on(None, "no argument of the call is a chat or a prompt")]
            self.args, self.kwargs = self._bare = args, kwargs
            return
        given = slot.value
        self._calls, shown = self._shortened(slot, given, kwargs)
        self.args, self.kwargs = replaced(slot, shown, args, kwargs)
        if (edits := next((call.edits for call in self._calls if call.edits is not None), None)) is not None:
            self.kwargs = with_edits(method, None if is_batch(slot) else slot, self.kwargs, edits)
        args, kwargs = replaced(slot, as_it_is(given), args, kwargs)
        # The callbacks of a LangChain run are told of a call once.
        self._bare = args, {name: None if name == "run_manager" else value for name, value in kwargs.items()}

    def _shortened(self, slot: Slot, given: Any, beside: dict) -> tuple[list[Call], Any]:
        """The calls that it is, one for each of several prompts, and what is sent; `beside` counts as well."""
        calls = self._asker.calls
        if is_batch(slot):
            batch = [calls.prepare(one, beside) for one in given]
            return batch, type(given)(call.shown for call in batch)
        if is_parts(given):
            if len(given) > 1 or given[0][0] != "text":
                kinds = ", ".join(str(part[0]) for part in given)
                return [calls.pass_on(given, f"a prompt of parts {kinds}; only one text can be shortened")], given
            call = calls.prepare(given[0][1], beside)
            return [call], [("text", call.shown)]
        if not self._asker.strict and not (is_history(given) and calls.shortens(given)):
            why = "keep_tokens is not given" if isinstance(given, str) else f"{type(given).__name__} is no chat or text"
            return [calls.pass_on(given, why)], given
        call = calls.prepare(given, beside)
        return [call], call.shown

    def answered(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            return self._awaited(result)
        if not self._is_whole(result):
            return self._measured(result)
        self._asker.shadow.replay(self._note(result), result, self._once_more)
        return result

    async def _awaited(self, result: Any) -> Any:
        with self._asker.nested():
            said = await result
        if not self._is_whole(said):
            return self._measured(said)
        self._asker.shadow.replay_async(self._note(said), said, self._once_more_async)
        return said

    def _once_more(self) -> Any:
        """The call as the host made it, also where the method calls others of the same object."""
        args, kwargs = self._bare
        with self._asker.nested():
            return self._method(*args, **kwargs)

    async def _once_more_async(self) -> Any:
        with self._asker.nested():
            return await self._once_more()

    def _is_whole(self, result: Any) -> bool:
        return not (is_stream(result) or is_async_stream(result) or is_raw(result) or opens(result))

    def _measured(self, result: Any) -> Any:
        """What is not at its end yet, in an object that notes the call when it is."""
        nested = self._asker.nested
        if is_raw(result):
            streamed = bool(self.kwargs.get("stream"))
            return RawAnswer(result, self._note, nested, streamed=streamed)
        if is_stream(result) or is_async_stream(result):
            return stream_of(result, self._note, nested)
        return Opened(result, self._note, nested)

    def _note(self, answer: Any, usage: dict[str, object] | None = None) -> int:
        """Note the call; the number of its (last) row. A list of answers to several prompts is told apart."""
        parts = answer if isinstance(answer, (list, tuple)) and len(answer) == len(self._calls) > 1 else None
        if usage is None and any(call.edits is not None for call in self._calls):
            self._asker.calls.carried_out(answer)
        counted = usage_of(answer) if usage is None else usage
        number = 0
        for index, call in enumerate(self._calls):
            number = self._asker.calls.note(call, parts[index] if parts else answer, **counted)
        return number
