"""A client of a remote service, sync or async, whose calls are sent a shorter history."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from erecap.wrapping.asking import Asker
from erecap.wrapping.callables import WrappedCallable
from erecap.wrapping.histories import in_body, is_named
from erecap.wrapping.kinds import PATHS, asks
from erecap.wrapping.proxies import AskingProxy, Reduced
from erecap.wrapping.watching import WatchedMethod, is_watched

_FORMS = ("with_raw_response", "with_streaming_response")  # the same resources, with answers in another form
_FRONTS = frozenset(path[:end] for path in PATHS for end, letter in enumerate(path) if letter == ".")


class WrappedClient(AskingProxy):
    """The client, or one of its resources: the calls of `PATHS` are shortened, everything else is the client's own.

    Args:
        target: the client, or a resource of it.
        asker: asks its methods.
        again: as for `Proxy`.
        path: of the resource, from the client.
    """

    _OWN = ("_path",)

    def __init__(self, target: Any, asker: Asker, again: Callable[[Any], Reduced], path: str = "") -> None:
        super().__init__(target, asker, again)
        self._path = path

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name in _FORMS:
            return self._resource(value, self._path)
        path = f"{self._path}.{name}" if self._path else name
        if callable(value) and (path in PATHS or (not self._path and asks(name, value))):
            return WrappedCallable(value, self._asker, lambda _: (getattr, (self, name)), named=is_named(value))
        if name == "post" and not self._path and callable(value):
            return self._post(value)
        if is_watched(name, value):
            return WatchedMethod(value, self._asker, lambda _: (getattr, (self, name)), path)
        if path in _FRONTS:
            return self._resource(value, path)
        if not self._path and name in ("with_options", "copy") and callable(value):
            return lambda *args, **kwargs: self._resource(value(*args, **kwargs), "")
        return value

    def _post(self, value: Any) -> Any:
        """The client's way to any path; a chat in the body is shortened, whatever the path."""
        shortened = WrappedCallable(value, self._asker, lambda _: (getattr, (self, "post")), named=True)

        @functools.wraps(value)
        def post(*args: Any, **kwargs: Any) -> Any:
            return (shortened if in_body(kwargs) else value)(*args, **kwargs)

        return post

    def _resource(self, value: Any, path: str) -> WrappedClient:
        return WrappedClient(value, self._asker, self._again, path)

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
