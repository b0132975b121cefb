"""Memory of a model's weights: which tensors a plan took out, and how many bytes are free since."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from collections.abc import Iterator

import torch
from torch import nn


class WeightBooks:
    """The weights of a model before and after a change.

    Args:
        model: before the change.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {_place(tensor): (weakref.ref(tensor), _size(tensor)) for tensor in _tensors(model)}
        self._gone: list[tuple[weakref.ref[torch.Tensor], int]] = []
        self._added = 0

    def close(self, model: nn.Module) -> None:
        """Note the model's weights after the change."""
        after = {_place(tensor): _size(tensor) for tensor in _tensors(model)}
        self._gone = [entry for place, entry in self._before.items() if place not in after]
        self._added = sum(size for place, size in after.items() if place not in self._before)
        self._before = {}

    @property
    def removed(self) -> int:
        """Bytes of the weights that the change took out, less those of their replacements."""
        return sum(size for _, size in self._gone) - self._added

    @property
    def freed(self) -> int:
        """As `removed`, of those that nobody holds any more."""
        return sum(size for tensor, size in self._gone if tensor() is None) - self._added


def give_back(device: torch.device) -> None:
    """Give freed memory back to the system: what torch or the C library holds for later, as far as they can."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # of glibc, which keeps blocks of up to 32 MB
        trim(0)


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "meta" and tensor.numel():
            yield tensor


def _place(tensor: torch.Tensor) -> tuple[str, int]:
    """The memory of a tensor; tensors that share a storage have one."""
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _size(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
