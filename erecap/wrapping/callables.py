"""A callable `messages -> str` that is shown fewer of the old messages."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erecap.context.fit import drop_oldest
from erecap.errors import ConfigError
from erecap.protocols import Message, Timing, Usage
from erecap.wrapping.log import CallLog

CHARACTERS_PER_TOKEN = 4  # of English text in the common vocabularies; used only where nothing better is given


def wrap_callable(
    target: Callable[..., Any],
    keep: float,
    keep_tokens: int | None,
    count_tokens: Callable[[str], int] | None,
    log: CallLog,
) -> Callable[..., Any]:
    """`target` with the oldest messages left out of its first argument; see `erecap.wrap`.

    Raises:
        ConfigError: `keep` outside (0, 1] or `keep_tokens` below 1.
    """
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep must be above 0 and at most 1, got {keep}")
    if keep_tokens is not None and keep_tokens < 1:
        raise ConfigError(f"keep_tokens must be 1 or more, got {keep_tokens}")
    count = count_tokens or (lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN))

    def total(messages: Sequence[Message]) -> int:
        return sum(count(message["content"]) for message in messages)

    def shorten(messages: Sequence[Message]) -> list[Message]:
        tokens = total(messages)
        budget = keep_tokens if keep_tokens is not None else math.ceil(keep * tokens)
        return list(messages) if tokens <= budget else drop_oldest(messages, total, budget, tokens)[0]

    def call(messages: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[list[Message], Callable[[Any], None]]:
        _check(messages)
        started = time.perf_counter()
        shown = shorten(messages) if messages else []
        shortened = time.perf_counter()

        def note(answer: Any) -> None:
            usage = Usage(
                prompt_tokens=total(messages),
                new_tokens=total(shown),
                kept_per_layer=(total(shown),),
                completion_tokens=count(answer) if isinstance(answer, str) else 0,
                overflow_messages=len(messages) - len(shown),
            )
            timing = Timing(prune_ms=1e3 * (shortened - started), total_ms=1e3 * (time.perf_counter() - started))
            log.note(
                usage,
                timing,
                "pruned" if len(shown) < len(messages) else "passed",
                f"{len(messages) - len(shown)} of {len(messages)} messages left out",
                tokens_estimated=count_tokens is None,
            )

        return shown, note

    if inspect.iscoroutinefunction(target):

        @functools.wraps(target)
        async def wrapped_async(messages: Any, *args: Any, **kwargs: Any) -> Any:
            shown, note = call(messages, args, kwargs)
            answer = await target(shown, *args, **kwargs)
            note(answer)
            return answer

        wrapped_async.log = log  # type: ignore[attr-defined]
        return wrapped_async

    def wrapped(messages: Any, *args: Any, **kwargs: Any) -> Any:
        shown, note = call(messages, args, kwargs)
        answer = target(shown, *args, **kwargs)
        note(answer)
        return answer

    if hasattr(target, "__name__"):  # functions and methods; objects with __call__ have no name to copy
        functools.update_wrapper(wrapped, target)
    wrapped.log = log  # type: ignore[attr-defined]
    return wrapped


def _check(messages: Any) -> None:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ConfigError(
            f"a wrapped callable takes a list of messages, got {type(messages).__name__}; "
            "a single prompt string has no records that could be left out"
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or "role" not in message:
            raise ConfigError(f"message {number} must have a role and a text content, got {message!r:.80}")
