"""A function, or another callable, that is shown a shorter history."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from erecap.wrapping.asking import Asker
from erecap.wrapping.histories import parameters_of
from erecap.wrapping.proxies import AskingProxy, Reduced


class WrappedCallable(AskingProxy):
    """Stands for `target`: it has its signature, attributes and kind, and hands everything but the history on.

    `inspect` takes it for what it stands for: a function, a coroutine function, a generator function, a method. Like a
    function it becomes a method of the class that it is put into.

    Args:
        target: the callable.
        asker: asks it.
        again: as for `Proxy`.
        named: as for `find_history`.
    """

    _OWN = ("_names", "_named", "__wrapped__", *functools.WRAPPER_ASSIGNMENTS)

    def __init__(
        self, target: Callable[..., Any], asker: Asker, again: Callable[[Any], Reduced], *, named: bool = False
    ) -> None:
        super().__init__(target, asker, again)
        self._names, self._named = parameters_of(target), named
        for name in functools.WRAPPER_ASSIGNMENTS:  # those of this class would be found before the target's
            if hasattr(target, name):
                object.__setattr__(self, name, getattr(target, name))
        object.__setattr__(self, "__wrapped__", target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._asker.ask(self._target, self._names, args, kwargs, named=self._named)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not hasattr(type(self._target), "__get__"):
            return self
        return WrappedCallable(self._target.__get__(instance, owner), self._asker, self._again)
