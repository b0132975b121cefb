"""A time limit for Python code of somebody else's, such as the chat template of a model."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ARRIVES_S = 1.0  # within this an exception that was set for a thread is raised in it


class _Over(BaseException):
    """Raised in the middle of what takes too long; no `except Exception` of others holds it up."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Break off what is inside when it takes longer. In any thread; a call into compiled code ends first.

    Raises:
        TimeoutError: it did.
    """
    thread, lock = ctypes.c_ulong(threading.get_ident()), threading.Lock()
    ended = rang = False

    def ring() -> None:
        nonlocal rang
        with lock:
            if not ended:
                rang = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Over))

    clock = threading.Timer(seconds, ring)
    clock.daemon = True
    try:
        arrived = False
        try:
            clock.start()  # inside, because on a busy machine the time may be over before it has returned
            yield
        except _Over:
            arrived = True
            raise
        finally:
            clock.cancel()
            with lock:
                ended = True
            # It may have ended by itself at the same moment: what is on its way must not arrive elsewhere.
            deadline = time.monotonic() + _ARRIVES_S
            while rang and not arrived and time.monotonic() < deadline:
                time.sleep(0.001)
    except _Over:
        raise TimeoutError(f"longer than {seconds:g} s") from None
