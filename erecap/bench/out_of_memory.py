"""Calls that may run out of memory: what did is left out, at that length and at longer ones, and said."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")
Key = tuple[str, str]  # the row and the mode of a call


def ran_out(error: BaseException) -> bool:
    """Return True where a device, or the system, had no more memory to give."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Torch has no class of its own for the processor's memory.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class MemoryGuard:
    """Makes calls, and remembers which of them ran out of memory.

    Args:
        say: told of each that did.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.skipped: dict[Key, int] = {}  # the shortest length at which each ran out
        self._say = say

    def tried(self, key: Key, length: int, name: str, call: Callable[[], Result]) -> Result | None:
        """The answer of `call`; None if memory ran out, now or at a shorter length.

        Args:
            name: of the call, for what is said.
        """
        if self.skipped.get(key, length + 1) <= length:
            return None
        try:
            return call()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
        # The error is gone here, and with it the frames that held what was allocated.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.skipped[key] = length
        self._say(f"{name} ran out of memory at {length:,} tokens; left out there and beyond")
        return None
