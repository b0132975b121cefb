"""A proxy object: it passes on everything that it does not define."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from erecap.wrapping.asking import Asker
from erecap.wrapping.log import CallLog
from erecap.wrapping.shadow import Shadow
from erecap.wrapping.stand_ins import StandIn

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and its arguments, which make the object again


class Proxy(StandIn):
    """A stand-in for `target`: what is not defined here is the target's. It passes for one in `isinstance`, too.

    Args:
        target: what it stands for.
        again: gives what makes it again for another target, for copies and for pickle.
    """

    _OWN: tuple[str, ...] = ("_target", "_again")

    def __init__(self, target: Any, again: Callable[[Any], Reduced]) -> None:
        self._target, self._again = target, again

    def __getattr__(self, name: str) -> Any:
        if name in type(self)._own():  # not set yet: copying and unpickling ask before __init__ has run
            raise AttributeError(name)
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self)._own():
            object.__setattr__(self, name, value)
        else:
            setattr(self._target, name, value)

    @classmethod
    def _own(cls) -> set[str]:
        return {name for kind in cls.__mro__ for name in kind.__dict__.get("_OWN", ())}

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._target)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._again(self._target)

    def __copy__(self) -> Any:
        make, arguments = self._again(copy.copy(self._target))
        return make(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        make, arguments = self._again(copy.deepcopy(self._target, memo))
        return make(*arguments)

    def __repr__(self) -> str:
        return f"<wrapped by erecap: {self._target!r}>"


class AskingProxy(Proxy):
    """A stand-in whose target is asked through an `Asker`.

    Args:
        target: what it stands for.
        asker: asks it.
        again: as for `Proxy`.
    """

    _OWN: tuple[str, ...] = ("_asker",)

    def __init__(self, target: Any, asker: Asker, again: Callable[[Any], Reduced]) -> None:
        super().__init__(target, again)
        self._asker = asker

    @property
    def log(self) -> CallLog:
        """The log of calls."""
        return self._asker.calls.log

    @property
    def shadow(self) -> Shadow:
        """The calls that are made once more."""
        return self._asker.shadow
