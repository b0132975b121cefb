"""Shadow calls: a share of the calls is repeated through the bare target, off the critical path, and compared."""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from erecap.errors import ConfigError
from erecap.wrapping.answers import comparable
from erecap.wrapping.log import CallLog
from erecap.wrapping.option_types import is_number

WAITING = 8  # replays that may wait, each with its chat; what is due beyond is skipped
END_S = 2.0  # how long the end of the process waits for the replay that is running

_shadows: weakref.WeakSet[Shadow] = weakref.WeakSet()


class Shadow:
    """Replays calls in a thread, one at a time, or as tasks of the caller's event loop.

    A bare call is mostly slower than a wrapped one, so not every replay that is due can be made. Those beyond `WAITING`
    are skipped, and the log says so. When the process ends, those that wait are skipped, and the one that is running
    has `END_S` seconds.

    Args:
        share: of the calls, from 0 to 1; with a tenth, every tenth call is replayed.
        log: gets a row for each.

    Raises:
        ConfigError: a share outside [0, 1].
    """

    def __init__(self, share: float, log: CallLog) -> None:
        if not is_number(share) or not 0.0 <= share <= 1.0:
            raise ConfigError(f"shadow: got {share!r}; allowed: from 0 to 1, the share of the calls that are replayed")
        self._share, self._log = share, log
        self._due = 0.0
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, str | None, Callable[[], Any]]] = deque()
        self.thread: threading.Thread | None = None  # there while something is to be replayed
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop keeps only weak references
        _shadows.add(self)

    def replay(self, number: int, answer: Any, bare: Callable[[], Any]) -> None:
        """Ask `bare` in the background, if this call is in the share."""
        if not self.is_due():
            return
        with self._changed:
            reason = "the process is ending" if self._ended else _full(len(self._waiting))
            if reason is None:
                self._waiting.append((number, comparable(answer), bare))
                if self.thread is None:
                    # A daemon, because a replay must not keep a process from ending.
                    self.thread = threading.Thread(target=self._run, name="erecap-shadow", daemon=True)
                    self.thread.start()
        if reason is not None:
            self._log.skip(number, reason)

    def replay_async(self, number: int, answer: Any, bare: Callable[[], Awaitable[Any]]) -> None:
        """The same for a coroutine, as a task of the running loop."""
        if not self.is_due():
            return
        reason = _full(len(self._tasks))
        if reason is not None:
            self._log.skip(number, reason)
            return
        task = asyncio.get_running_loop().create_task(self._awaited(number, comparable(answer), bare))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wait(self) -> None:
        """Until all replays of the thread are done."""
        with self._changed:
            self._changed.wait_for(lambda: self.thread is None)

    def end(self) -> None:
        """Skip what waits, and wait for what is running for at most `END_S` seconds."""
        with self._changed:
            self._ended = True
            left = [number for number, _, _ in self._waiting]
            self._waiting.clear()
            self._changed.wait_for(lambda: self.thread is None, END_S)
        for number in left:
            self._log.skip(number, "the process is ending")

    def is_due(self) -> bool:
        if not self._share:
            return False
        with self._changed:
            self._due += self._share
            if self._due < 1.0 - 1e-9:  # ten tenths are a little less than one
                return False
            self._due -= 1.0
            return True

    def _run(self) -> None:
        try:
            while (replay := self._next()) is not None:
                self._compared(*replay)
        except BaseException:  # the log cannot be written: the thread ends, and the next replay begins another
            with self._changed:
                self.thread = None
                self._changed.notify_all()
            raise

    def _next(self) -> tuple[int, str | None, Callable[[], Any]] | None:
        with self._changed:
            if self._waiting:
                return self._waiting.popleft()
            self.thread = None
            self._changed.notify_all()
            return None

    def _compared(self, number: int, said: str | None, bare: Callable[[], Any]) -> None:
        started = time.perf_counter()
        try:
            answer = bare()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a foreign planner raises disturbs nobody)
            self._note(number, started, None, f"{type(error).__name__}: {error}")
        else:
            self._answered(number, started, said, answer)

    async def _awaited(self, number: int, said: str | None, bare: Callable[[], Awaitable[Any]]) -> None:
        started = time.perf_counter()
        try:
            answer = await bare()
        except asyncio.CancelledError:
            self._log.skip(number, "the event loop ended")
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            self._note(number, started, None, f"{type(error).__name__}: {error}")
        else:
            self._answered(number, started, said, answer)

    def _answered(self, number: int, started: float, said: str | None, answer: Any) -> None:
        again = comparable(answer)
        unknown = None
        if said is None or again is None:
            unknown = f"answers of type {type(answer).__name__} cannot be compared"
        self._note(number, started, None if unknown else again == said, unknown=unknown)

    def _note(
        self,
        number: int,
        started: float,
        agrees: bool | None,
        problem: str | None = None,
        unknown: str | None = None,
    ) -> None:
        self._log.compare(number, 1e3 * (time.perf_counter() - started), agrees, problem, unknown)


def _full(waiting: int) -> str | None:
    """Why no further replay is taken on; None: one is."""
    return None if waiting < WAITING else f"{waiting} replays are waiting already"


@atexit.register
def _end_all() -> None:
    for shadow in list(_shadows):
        shadow.end()


def as_it_is(given: Any) -> Any:
    """A copy of `given` for later: hosts append to the very list that they have sent."""
    return list(given) if isinstance(given, list) else given
