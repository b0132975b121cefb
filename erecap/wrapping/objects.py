"""Objects that plan by methods: a language model of a framework, a client of a local engine, an agent's own class."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from erecap.wrapping.asking import Asker
from erecap.wrapping.callables import WrappedCallable
from erecap.wrapping.histories import is_named
from erecap.wrapping.proxies import Reduced
from erecap.wrapping.stand_ins import MARK, is_stand_in
from erecap.wrapping.watching import WatchedMethod


def stand_in_object(
    target: Any, names: Iterable[str], asker: Asker, again: Callable[[Any], Reduced], *, watched: Iterable[str] = ()
) -> Any:
    """An object that shares all state with `target`, and whose methods `names` are shown a shorter history.

    It is an instance of a subclass of the target's class, with the target's own `__dict__`. So `isinstance` holds, what
    one changes the other sees, and a method of the class that calls one of `names` calls the wrapped one.

    Args:
        target: an object with a `__dict__`.
        names: of methods.
        asker: asks them.
        again: gives what makes such an object again for another target, for copies and for pickle.
        watched: methods that are handed all calls as they are; those beyond the budget are noted.

    Raises:
        TypeError: the target's class cannot have subclasses, or its objects have no `__dict__`.
    """
    kind: Any = type(target)
    body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    stand_in = type(kind)(kind.__name__, (kind,), body)
    # Set afterwards: metaclasses such as pydantic's take what stands in the body for fields.
    for name in names:
        setattr(stand_in, name, _Method(name, stand_in, asker))
    for name in watched:
        setattr(stand_in, name, _Watched(name, stand_in, asker))
    for name, value in (("log", asker.calls.log), ("shadow", asker.shadow)):
        if not hasattr(target, name):
            setattr(stand_in, name, value)
    setattr(stand_in, MARK, True)

    def bare(instance: Any) -> Any:
        return _alias(kind, instance)

    stand_in.__reduce_ex__ = lambda self, protocol: again(bare(self))  # type: ignore[method-assign, assignment]
    stand_in.__copy__ = lambda self: _made(again(copy.copy(bare(self))))
    stand_in.__deepcopy__ = lambda self, memo=None: _made(again(copy.deepcopy(bare(self), memo)))
    return _alias(stand_in, target)


class _Method:
    """A method of the subclass: the target's own, of its class or set on the object itself, shown less."""

    def __init__(self, name: str, owner: type, asker: Asker) -> None:
        self._name, self._owner, self._asker = name, owner, asker

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return getattr(super(self._owner, owner or self._owner), self._name)
        own = instance.__dict__.get(self._name)
        method = getattr(super(self._owner, instance), self._name) if own is None else own
        return self._shown(method, lambda _: (getattr, (instance, self._name)))

    def _shown(self, method: Any, again: Callable[[Any], Reduced]) -> Any:
        return WrappedCallable(method, self._asker, again, named=is_named(method))

    def __set__(self, instance: Any, value: Any) -> None:  # so that it is found before what the object itself holds
        instance.__dict__[self._name] = value

    def __delete__(self, instance: Any) -> None:
        del instance.__dict__[self._name]


class _Watched(_Method):
    """A method of the subclass that is not shortened."""

    def _shown(self, method: Any, again: Callable[[Any], Reduced]) -> Any:
        # The host may have wrapped it by itself since.
        return method if is_stand_in(method) else WatchedMethod(method, self._asker, again, self._name)


def _made(reduced: Reduced) -> Any:
    make, arguments = reduced
    return make(*arguments)


def _alias(kind: type, target: Any) -> Any:
    """An object of `kind` with the very state of `target`."""
    made: Any = object.__new__(kind)
    object.__setattr__(made, "__dict__", target.__dict__)
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(target, name):
                object.__setattr__(made, name, getattr(target, name))
    return made
