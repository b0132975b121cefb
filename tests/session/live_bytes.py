"""Bytes of tensors that are alive at once while something runs, counted operation by operation."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages that operations within make, as long as a tensor on them lives; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._holders: dict[int, int] = {}  # tensors on each storage, by its address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {id(one) for one in tree_leaves((args, kwargs))}
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in given and tensor.device.type == "cpu":
                self._hold(tensor)
        return output

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not place or (tensor._is_view() and place not in self._holders):
            return  # empty, or a view of what was there before
        if place not in self._holders:
            self._holders[place], self.now = 0, self.now + size
            self.peak = max(self.peak, self.now)
        self._holders[place] += 1
        weakref.finalize(tensor, self._leave, place, size).atexit = False

    def _leave(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self.now -= size
