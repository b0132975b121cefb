"""Objects that stand for a model: a method that returns the model itself returns them instead."""

from __future__ import annotations

import functools
import inspect
from typing import Any

MARK = "erecap_stand_in"  # attribute of the classes of all that `erecap.wrap` returns


class StandIn:
    """Base of what stands for something else without being of its class."""

    erecap_stand_in = True


def is_stand_in(thing: Any) -> bool:
    """Return True for what `erecap.wrap` has returned."""
    return getattr(type(thing), MARK, False) is True


def of_target(stand_in: Any, target: Any, name: str) -> Any:
    """The attribute `name` of `target`; of a method that returns `target` (`eval`, `to`), one that returns `stand_in`.

    Otherwise `model = model.eval()` would quietly take the wrapping off.
    """
    value = getattr(target, name)
    if not inspect.ismethod(value) or value.__self__ is not target:
        return value

    @functools.wraps(value)
    def method(*args: Any, **kwargs: Any) -> Any:
        result = value(*args, **kwargs)
        return stand_in if result is target else result

    return method
