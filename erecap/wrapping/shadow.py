"""A share of the calls is made once more through the bare target, off the critical path, and compared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from erecap.errors import ConfigError
from erecap.wrapping.calls import said_by
from erecap.wrapping.log import CallLog


class Shadow:
    """Replays calls in a thread, or in the caller's event loop, one at a time.

    Args:
        share: of the calls, from 0 to 1; with a tenth, every tenth call is replayed.
        log: gets a row for each.

    Raises:
        ConfigError: a share outside [0, 1].
    """

    def __init__(self, share: float, log: CallLog) -> None:
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"shadow: got {share}; allowed: from 0 to 1, the share of the calls that are replayed")
        self._share, self._log = share, log
        self._due = 0.0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="erecap-shadow") if share else None
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop keeps only weak references

    def replay(self, number: int, answer: Any, bare: Callable[[], Any]) -> None:
        """Ask `bare` in the background, if this call is one of those."""
        if self._thread is not None and self._is_due():
            self._thread.submit(self._compared, number, said_by(answer), bare)

    def replay_async(self, number: int, answer: Any, bare: Callable[[], Awaitable[Any]]) -> None:
        """The same for a coroutine, as a task of the running loop."""
        if self._thread is not None and self._is_due():
            task = asyncio.get_running_loop().create_task(self._awaited(number, said_by(answer), bare))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def wait(self) -> None:
        """Until all replays of the thread are done."""
        if self._thread is not None:
            self._thread.submit(lambda: None).result()

    def _is_due(self) -> bool:
        with self._lock:
            self._due += self._share
            if self._due < 1.0 - 1e-9:  # ten tenths are a little less than one
                return False
            self._due -= 1.0
            return True

    def _compared(self, number: int, said: str, bare: Callable[[], Any]) -> None:
        started = time.perf_counter()
        try:
            answer = bare()
        except Exception as error:  # noqa: BLE001 (whatever a foreign planner raises; here it disturbs nobody)
            self._note(number, started, None, f"{type(error).__name__}: {error}")
        else:
            self._note(number, started, said_by(answer) == said)

    async def _awaited(self, number: int, said: str, bare: Callable[[], Awaitable[Any]]) -> None:
        started = time.perf_counter()
        try:
            answer = await bare()
        except Exception as error:  # noqa: BLE001 (as above)
            self._note(number, started, None, f"{type(error).__name__}: {error}")
        else:
            self._note(number, started, said_by(answer) == said)

    def _note(self, number: int, started: float, agrees: bool | None, problem: str | None = None) -> None:
        self._log.compare(number, 1e3 * (time.perf_counter() - started), agrees, problem)


def as_it_is(given: Any) -> Any:
    """`given` for later: hosts append to the very list that they have sent."""
    return list(given) if isinstance(given, list) else given
