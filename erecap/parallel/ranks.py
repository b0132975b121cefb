"""Processes that compute one model together (tensor parallelism), started by `torchrun`.

Rank 0 talks to the world. It tells the other ranks what to do in messages of JSON, over a group of its own on the
CPU; they follow until it ends. A rank that is gone ends the others with one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from erecap.errors import ErecapError, ModelError, RunError

IDLE = timedelta(days=365)  # a rank may wait that long for the next message
# What the transports say when the other side is gone; they have no error class of their own.
_GONE = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out waiting", "socket")
LOST = (
    "another rank of the model is lost (it was killed, failed or ran out of memory), so the call cannot go on; "
    "start all ranks again"
)
BROKEN = "a call was broken off in the middle of a pass, so the ranks are out of step; start all again"
# Errors that all ranks meet at the same place, after which they are still in step.
TOGETHER = (FloatingPointError, ValueError, RunError)


class RankLost(ErecapError):
    """Another process of the same model has ended."""


def is_split(model: nn.Module) -> bool:
    """Return True if every process holds only a part of the weights of `model`."""
    return (getattr(model, "_tp_size", None) or 1) > 1


class Ranks:
    """The channel from rank 0 to the others, and what they compute in common.

    Args:
        rank: of this process.
        size: processes in all.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        gpus = torch.cuda.device_count()
        self.device = torch.device("cuda", local) if gpus else torch.device("cpu")
        if gpus and local >= gpus:
            raise ModelError(f"rank {self.rank} has no accelerator of its own: this machine has {gpus}")
        if not dist.is_initialized():
            if gpus:
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if gpus else "gloo", rank=self.rank, world_size=self.size)
        self._channel = dist.new_group(backend="gloo", timeout=IDLE)
        self._lock = threading.RLock()
        self._broken: str | None = None  # reason why ranks would now wait for each other at different places

    @contextmanager
    def together(self) -> Iterator[None]:
        """Compute, within, what all ranks compute at this time. One thread at a time.

        Raises:
            RankLost: another rank is gone.
        """
        with self._lock:
            if self._broken is not None:
                raise RankLost(self._broken)
            try:
                yield
            except (*TOGETHER, RankLost):
                raise
            except BaseException as error:
                self._broken = f"rank {self.rank} of {self.size}: {BROKEN}"
                if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _GONE):
                    self._broken = f"rank {self.rank} of {self.size}: {LOST}"
                    raise RankLost(self._broken) from error
                raise

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message from rank 0 to all others."""
        raw = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        with self.together():
            dist.broadcast(torch.tensor([len(raw)]), 0, group=self._channel)
            dist.broadcast(raw, 0, group=self._channel)

    def hear(self) -> dict[str, Any]:
        """The next message from rank 0; waits for it."""
        with self.together():
            length = torch.zeros(1, dtype=torch.long)
            dist.broadcast(length, 0, group=self._channel)
            raw = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(raw, 0, group=self._channel)
        message: dict[str, Any] = json.loads(raw.numpy().tobytes())
        return message

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """The `scores` of rank 0, on every rank; the others give a tensor of the same shape and kind."""
        shared = scores.detach().to(torch.float32, copy=True).contiguous()
        dist.broadcast(shared, 0)
        return shared

    def over_heads(self, mass: torch.Tensor) -> torch.Tensor:
        """The mean of attention weights over the heads of all ranks, from the mean over each rank's own."""
        mass = mass.contiguous()
        dist.all_reduce(mass)
        return mass / self.size

    def agree(self, facts: dict[str, Any]) -> None:
        """Refuse to go on where a rank has other facts than rank 0.

        Raises:
            ModelError: names the rank, and the first fact that differs where this is that rank or rank 0.
        """
        names = sorted(facts)
        digests = [hashlib.sha256(repr(facts[name]).encode()).digest() for name in names]
        own = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self.together():
            dist.all_gather(found, own, group=self._channel)
        for number, theirs in enumerate(found):
            pieces = zip(names, theirs.view(-1, 32), found[0].view(-1, 32), strict=True)
            other = next((name for name, a, b in pieces if not torch.equal(a, b)), None)
            if other is not None:
                raise ModelError(
                    f"the ranks disagree: rank {number} has another {other} than rank 0 "
                    f"(here, on rank {self.rank}: {str(facts[other])[:60]}); start all with the same model and settings"
                )

    def end(self) -> None:
        """Let the other ranks stop following, from rank 0."""
        if self.rank == 0 and self._broken is None:
            self.tell({"do": "end"})
