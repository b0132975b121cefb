"""A callable `messages -> str` or `prompt -> str` that is shown a shorter history."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from erecap.wrapping.calls import TextCalls
from erecap.wrapping.shadow import Shadow, as_it_is


def wrap_callable(target: Callable[..., Any], calls: TextCalls, shadow: Shadow) -> Callable[..., Any]:
    """`target` with its first argument shortened, everything else handed on; see `erecap.wrap`."""
    if inspect.iscoroutinefunction(target):

        @functools.wraps(target)
        async def wrapped_async(messages: Any, *args: Any, **kwargs: Any) -> Any:
            call, given = calls.prepare(messages, kwargs), as_it_is(messages)
            answer = await target(call.shown, *args, **kwargs)
            number = calls.note(call, answer)
            shadow.replay_async(number, answer, lambda: target(given, *args, **kwargs))
            return answer

        wrapped_async.log, wrapped_async.shadow = calls.log, shadow  # type: ignore[attr-defined]
        return wrapped_async

    def wrapped(messages: Any, *args: Any, **kwargs: Any) -> Any:
        call, given = calls.prepare(messages, kwargs), as_it_is(messages)
        answer = target(call.shown, *args, **kwargs)
        number = calls.note(call, answer)
        shadow.replay(number, answer, lambda: target(given, *args, **kwargs))
        return answer

    if hasattr(target, "__name__"):  # functions and methods; objects with __call__ have no name to copy
        functools.update_wrapper(wrapped, target)
    wrapped.log, wrapped.shadow = calls.log, shadow  # type: ignore[attr-defined]
    return wrapped
