"""A proxy object: it passes on everything that it does not define."""

from __future__ import annotations

from typing import Any

from erecap.wrapping.calls import TextCalls
from erecap.wrapping.shadow import Shadow
from erecap.wrapping.stand_ins import StandIn


class Proxy(StandIn):
    """A stand-in for `target`: what is not defined here is the target's. It passes for one in `isinstance`, too."""

    _OWN = ("_target", "_calls", "_shadow")

    def __init__(self, target: Any, calls: TextCalls, shadow: Shadow) -> None:
        self._target, self._calls, self._shadow = target, calls, shadow

    def __getattr__(self, name: str) -> Any:
        if name in Proxy._OWN:  # not set yet: copying and unpickling ask before __init__ has run
            raise AttributeError(name)
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self)._own():
            object.__setattr__(self, name, value)
        else:
            setattr(self._target, name, value)

    @classmethod
    def _own(cls) -> set[str]:
        return {name for kind in cls.__mro__ for name in getattr(kind, "_OWN", ())}

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._target)
