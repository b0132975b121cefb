"""The thread in which a proxy shortens chats, so that its event loop only waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from erecap.serving.failures import overloaded

Result = TypeVar("Result")


class Worker:
    """Does one thing after the other, in the order in which they come.

    One thread is enough: conversations share a lock, so that a second one would wait for it. And it keeps a
    conversation in order: an answer is noted before the next call of it is shortened.

    Args:
        most_waiting: calls that may wait; more are refused.
    """

    def __init__(self, most_waiting: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="erecap-proxy")
        self._most, self._asked = most_waiting, 0  # asked: calls that wait or run

    async def ask(self, do: Callable[..., Result], *given: Any) -> Result:
        """Run `do` in the thread and return its result. For the event loop.

        Raises:
            ApiFailure: too many calls are waiting; and whatever `do` raises.
        """
        if self._asked > self._most:
            raise overloaded(f"{self._most} calls are waiting to be shortened already; try again later")
        self._asked += 1
        future = self._thread.submit(do, *given)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._asked -= 1

    def tell(self, do: Callable[..., Result], *given: Any) -> Future[Result]:
        """Run `do` in the thread without waiting for it. It is never refused."""
        return self._thread.submit(do, *given)

    async def told(self, do: Callable[..., Result], *given: Any) -> Result:
        """Run `do` in the thread and return its result. Never refused, and done also if whoever waits is cancelled."""
        return await asyncio.shield(asyncio.wrap_future(self.tell(do, *given)))

    def close(self) -> None:
        """Finish what was begun or told."""
        self._thread.shutdown()
