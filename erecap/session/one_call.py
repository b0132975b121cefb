"""Guard that lets one call at a time into a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class OneCall:
    """Context that refuses to be entered while it is entered, instead of waiting. A copy is a guard of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "a session serves one call at a time; another one is running: give each thread a session or fork"
            )

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:  # locks are neither copied nor pickled
        return OneCall, ()


class _Guarded(Protocol):
    _one_call: OneCall


Session = TypeVar("Session", bound=_Guarded)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_call(
    method: Callable[Concatenate[Session, Arguments], Result],
) -> Callable[Concatenate[Session, Arguments], Result]:
    """Make a method a call of its session.

    Raises:
        RuntimeError: from the method, while another call of the session runs.
    """

    @wraps(method)
    def guarded(self: Session, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self._one_call:
            return method(self, *args, **kwargs)

    return guarded
