"""Ctrl-C (and SIGTERM) that never cuts a row in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt, but not inside `held()`: there they wait.

    Python allows handlers in the main thread only; elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self._holding = 0
        self._waiting = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what is inside finish; an interrupt that came meanwhile is raised afterwards."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._waiting and not self._holding:
            self._waiting = False
            raise KeyboardInterrupt

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._waiting = True
            return
        raise KeyboardInterrupt
