"""This process among those that `torchrun` started for one model. Loads no torch where there are no others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erecap.parallel.ranks import Ranks

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
_joined: list[Ranks] = []


def world() -> int:
    """Processes that `torchrun` started for one model; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in VARIABLES) else 1


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def join() -> Ranks | None:
    """The ranks of this process, joined at the first call; None without `torchrun`."""
    if world() == 1:
        return None
    if not _joined:
        from erecap.parallel.ranks import Ranks

        _joined.append(Ranks(rank(), world()))
    return _joined[0]


def joined() -> Ranks:
    """The ranks that this process has joined."""
    return _joined[0]


@contextmanager
def leading() -> Iterator[None]:
    """Let the other ranks end when this is left."""
    try:
        yield
    finally:
        for ranks in _joined:
            ranks.end()
