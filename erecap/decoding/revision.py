"""The revision of a model: another one whenever what it computes was changed.

Weights, modules, hooks, replaced functions, settings, active adapters and autocast all count. Keys and values that an
earlier revision computed do not belong to what the model computes now.
"""

from __future__ import annotations

import threading
import weakref
from itertools import count
from typing import Any

import torch
from torch import nn

from erecap.decoding.behaviour import BehaviourWatch, precision_now
from erecap.decoding.watch import ModelWatch
from erecap.parallel.placement import in_memory, waiting_weights
from erecap.tokens.cache.ropes import changes_itself

# Elements of each weight that are compared. Versions and addresses tell of most changes; a write through `tensor.data`
# (as PEFT merges, and as weights are often scaled) leaves both, but changes all elements of a tensor.
SAMPLED = 8
ADAPTER_STATE = ("_active_adapter", "active_adapter", "_disable_adapters", "merged_adapters", "scaling")

_numbers = count(1)
_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[nn.Module, _Revision] = weakref.WeakKeyDictionary()


class _Revision:
    def __init__(self, model: nn.Module) -> None:
        self._numbers: dict[str, int] = {}  # by the precision of autocast, which is a matter of each thread
        self._watch, self._behaviour = ModelWatch(model), BehaviourWatch(model)
        self._views: dict[Any, list[torch.Tensor]] = {}  # by device and number format
        for tensor in _tensors(model):
            self._views.setdefault((tensor.device, tensor.dtype), []).append(_spread(tensor.detach()))
        self._layers = [own for own in map(vars, model.modules()) if any(name in own for name in ADAPTER_STATE)]
        self._sample, self._adapters = self._sample_now(), self.adapters()

    def number(self, precision: str) -> int:
        """The revision's number under this precision of autocast."""
        if precision not in self._numbers:
            self._numbers[precision] = next(_numbers)
        return self._numbers[precision]

    def stands(self) -> bool:
        """True if the model is as it was."""
        if self._watch.changed() or self._behaviour.changed() or self.adapters() != self._adapters:
            return False
        return all(map(torch.equal, self._sample_now(), self._sample))

    def adapters(self) -> list[str]:
        """The state of each adapted layer, as text."""
        return [str([own.get(name) for name in ADAPTER_STATE]) for own in self._layers]

    def _sample_now(self) -> list[torch.Tensor]:
        # As bits, so that NaN equals NaN.
        with torch.no_grad():
            return [torch.cat(views).contiguous().view(torch.uint8) for views in self._views.values()]


def model_revision(model: nn.Module) -> int:
    """The number of the model's revision; another one whenever it was changed since this was asked last."""
    with _lock:
        return _revision(model).number(precision_now(_device(model)))


def active_adapters(model: nn.Module) -> str:
    """The state of the model's adapted layers, as text; empty where there are none."""
    with _lock:
        return "\n".join(dict.fromkeys(_revision(model).adapters()))


def _revision(model: nn.Module) -> _Revision:
    known = _known.get(model)
    if known is None or not known.stands():
        known = _known[model] = _Revision(model)
    return known


def _device(model: nn.Module) -> torch.device:
    return next((weight.device for weight in model.parameters() if not weight.is_meta), torch.device("cpu"))


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """The weights and buffers that are compared."""
    buffers = [
        buffer
        for module in model.modules()
        if not changes_itself(vars(module))
        for buffer in vars(module)["_buffers"].values()
    ]
    # Weights that accelerate brings for each pass, as far as they wait in memory; files are not looked at.
    waiting = (in_memory(found.source, found.key) for found in waiting_weights(model))
    found = (*model.parameters(), *buffers, *waiting)
    return [tensor for tensor in found if tensor is not None and _sampled(tensor)]


def _sampled(tensor: torch.Tensor) -> bool:
    plain = type(tensor) in (nn.Parameter, torch.Tensor) and tensor.device.type != "meta"
    return plain and tensor.is_contiguous() and tensor.numel() > 0


def _spread(weight: torch.Tensor) -> torch.Tensor:
    # Neighbours, because joining contiguous pieces is one copy each.
    flat = weight.view(-1)
    middle = max(0, (len(flat) - SAMPLED) // 2)
    return flat[middle : middle + SAMPLED]
