"""Guard that lets one call at a time into a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class OneCall:
    """The lock of one session. A copy is a guard of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def check(self) -> None:
        """Refuse a call while another one runs, instead of waiting for it.

        Raises:
            RuntimeError: one runs.
        """
        if self.lock.locked():
            raise RuntimeError(
                "a session serves one call at a time; another one is running: give each thread a session or fork"
            )

    def __reduce__(self) -> tuple[Any, ...]:  # locks are neither copied nor pickled
        return OneCall, ()


class _Guarded(Protocol):
    _one_call: OneCall

    def _begin_call(self) -> None: ...


Session = TypeVar("Session", bound=_Guarded)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_call(
    method: Callable[Concatenate[Session, Arguments], Result],
) -> Callable[Concatenate[Session, Arguments], Result]:
    """Make a method a call of its session, which begins by finishing what an interrupted one left undone.

    Raises:
        RuntimeError: from the method, while another call of the session runs.
    """

    @wraps(method)
    def guarded(self: Session, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        self._one_call.check()
        # The lock itself, whose methods are not Python: no interrupt comes between taking it and the block.
        with self._one_call.lock:
            self._begin_call()
            return method(self, *args, **kwargs)

    return guarded
