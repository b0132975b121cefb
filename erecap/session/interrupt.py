"""The end of a call before its answer begins: a deadline or a caller that has gone, noticed between prefill chunks."""

from __future__ import annotations

import time
from collections.abc import Callable

from erecap.generation import FinishReason


class Interrupted(Exception):
    """Ends a prefill.

    Args:
        reason: why, as `Generation.finish_reason` says it.
    """

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(reason)
        self.reason: FinishReason = reason


class Interrupt:
    """Asked between the chunks of a prefill.

    Args:
        started: `time.perf_counter()` seconds from which the deadline counts.
        deadline_ms: milliseconds after `started`; None: no deadline.
        cancel: true ends the call; None: nobody cancels it.
    """

    def __init__(self, started: float, deadline_ms: float | None, cancel: Callable[[], bool] | None) -> None:
        self._deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        self._cancel = cancel

    def check(self) -> None:
        """Go on.

        Raises:
            Interrupted: the call was cancelled, or its deadline is over.
        """
        if self._cancel is not None and self._cancel():
            raise Interrupted("cancelled")
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            raise Interrupted("deadline")
