"""Methods of a wrapped planner that are not shortened. A history beyond the budget is noted, and said once."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from erecap.wrapping.asking import Asker
from erecap.wrapping.histories import find_history, parameters_of
from erecap.wrapping.proxies import Proxy, Reduced
from erecap.wrapping.streams import is_async_stream, is_stream, stream_of

# Parameters that hold a history and nothing else.
_HISTORIES = frozenset({"messages", "prompt", "prompts", "chat_history", "message_history", "conversation", "history"})
# Words in the names of methods that work on a history and do not plan.
_OTHER = re.compile(
    r"(?:^|_)(?:count|tokens?|tokenize|encode|embed|embedding|embeddings|classify|score|reward|format|convert|parse|"
    r"render|apply|validate|save|load|add|set|get|reset|append|clear|log|print|show|to|from|build|create_embedding)(?:_|$)"
)


def watched_methods(target: Any, shortened: Sequence[str]) -> list[str]:
    """Names of the methods of an object that may plan and are not among the shortened ones."""
    return [
        name
        for name in dir(type(target))
        if name not in shortened and is_watched(name, inspect.getattr_static(type(target), name))
    ]


def is_watched(name: str, method: Any) -> bool:
    """Return True for a method that may plan, going by its name and parameters."""
    if name.startswith("_") or _OTHER.search(name) or not inspect.isroutine(method):
        return False
    try:
        return not _HISTORIES.isdisjoint(inspect.signature(method).parameters)
    except (TypeError, ValueError):
        return False


class WatchedMethod(Proxy):
    """Stands for `target`, a method that is handed all calls as they are.

    A call is noted where its history is over the budget and none of the shortened methods was asked in it.

    Args:
        target: the method.
        asker: shortens the others.
        again: as for `Proxy`.
        name: of the method, for the warning.
    """

    _OWN = ("_asker", "_name", "__wrapped__")
    erecap_stand_in = False  # so that it can be wrapped by itself, as the warning says

    def __init__(self, target: Callable[..., Any], asker: Asker, again: Callable[[Any], Reduced], name: str) -> None:
        super().__init__(target, again)
        self._asker, self._name = asker, name
        object.__setattr__(self, "__wrapped__", target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._asker.is_inside():
            return self._target(*args, **kwargs)
        asked = self._asker.asked

        def ended(answer: Any, usage: Any = None) -> None:
            if self._asker.asked == asked:
                self._note(args, kwargs, answer)

        result = self._target(*args, **kwargs)
        if inspect.isawaitable(result):
            return self._awaited(result, ended)
        if is_stream(result) or is_async_stream(result):
            return stream_of(result, ended, nullcontext)
        ended(result)
        return result

    async def _awaited(self, result: Any, ended: Callable[[Any], None]) -> Any:
        answer = await result
        ended(answer)
        return answer

    def _note(self, args: tuple, kwargs: dict, answer: Any) -> None:
        names = parameters_of(self._target)
        slot = find_history(names, args, kwargs, named=True, strict=False)
        call = None if slot is None else self._asker.calls.passing(slot.value, f"`{self._name}` is not shortened")
        if call is None:  # it fits
            return
        self._asker.calls.note(call, answer)
        if self._name not in self._asker.said:
            self._asker.said.add(self._name)
            method = f"planner.{self._name}"
            warnings.warn(
                f"erecap.wrap does not shorten `{self._name}`, which was called with {call.before} tokens, more than "
                f"the budget; wrap it by itself: {method} = erecap.wrap({method}, keep_tokens=3000)",
                stacklevel=4,
            )
