"""The forwarder of this thread, through which a pool shares the forward passes of engines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Forwarder(Protocol):
    """Makes the forward passes of the engines that run in one thread."""

    def forward(self, engine: Any, ids: Sequence[int], keep: int, decode: bool) -> torch.Tensor:
        """Prefill or decode `ids` for `engine`; logits `(keep or len(ids), vocab)` on the CPU."""
        ...

    def give_way(self) -> None:
        """Let the other engines have their turn, before a pass that is not shared."""
        ...


class _Current(threading.local):
    def __init__(self) -> None:
        self.seat: Forwarder | None = None


current = _Current()  # its `seat` is None outside of a pool: engines then make their own passes
