"""Objects that plan by a method `generate`: PARTNR's `BaseLLM`, smolagents' `Model`, BALROG's clients, and the like."""

from __future__ import annotations

import inspect
from typing import Any

from erecap.errors import ConfigError
from erecap.wrapping.proxies import Proxy
from erecap.wrapping.shadow import as_it_is


class WrappedGenerator(Proxy):
    """The object, whose `generate` (and call, if it has one) is shown a shorter first argument.

    That is a prompt that grows, or a chat in one of the shapes of `erecap.wrapping.shapes`. PARTNR's list form of a
    prompt is understood where it is one text.
    """

    @property
    def log(self) -> Any:
        return self._calls.log

    def generate(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        """As the object's own."""
        return self._ask(self._target.generate, first, args, kwargs)

    def __call__(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._target, first, args, kwargs)

    def _ask(self, method: Any, first: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        listed = isinstance(first, list) and bool(first) and all(isinstance(part, tuple) for part in first)
        call = self._calls.prepare(_text_of(first) if listed else first, kwargs)
        first = as_it_is(first)
        shown = [("text", call.shown)] if listed else call.shown
        answer = method(shown, *args, **kwargs)
        if inspect.isawaitable(answer):
            return self._awaited(answer, call, method, first, args, kwargs)
        number = self._calls.note(call, answer)
        self._shadow.replay(number, answer, lambda: method(first, *args, **kwargs))
        return answer

    async def _awaited(self, answer: Any, call: Any, method: Any, first: Any, args: tuple, kwargs: dict) -> Any:
        said = await answer
        number = self._calls.note(call, said)
        self._shadow.replay_async(number, said, lambda: method(first, *args, **kwargs))
        return said


def _text_of(parts: list[tuple[str, Any]]) -> str:
    """The text of PARTNR's list form. Raises ConfigError for images, and for several texts."""
    kinds = [part[0] for part in parts]
    if kinds != ["text"]:
        raise ConfigError(
            f"a prompt of parts {', '.join(map(str, kinds))}; only one text can be shortened, so leave planners that "
            "see images unwrapped"
        )
    return str(parts[0][1])
