"""The revision of a model: rises when its weights, modules or active adapters were changed.

Keys and values that an earlier revision computed do not belong to what the model computes now.
"""

from __future__ import annotations

import weakref
from itertools import count
from typing import Any

import torch
from torch import nn

from erecap.decoding.watch import ModelWatch

# Elements of each weight that are compared. Versions and addresses tell of most changes; a write through `tensor.data`
# (as PEFT merges, and as weights are often scaled) leaves both, but changes all elements of a tensor.
SAMPLED = 8
ADAPTER_STATE = ("_active_adapter", "active_adapter", "_disable_adapters", "merged_adapters", "scaling")

_numbers = count(1)
_known: weakref.WeakKeyDictionary[nn.Module, _Revision] = weakref.WeakKeyDictionary()


class _Revision:
    def __init__(self, model: nn.Module) -> None:
        self.number = next(_numbers)
        self._watch = ModelWatch(model)
        plain = [weight for weight in model.parameters() if _sampled(weight)]
        self._views = [_spread(weight.detach()) for weight in plain]
        self._layers = [own for own in map(vars, model.modules()) if any(name in own for name in ADAPTER_STATE)]
        self._sample, self._adapters = self._sample_now(), self.adapters()

    def stands(self) -> bool:
        """True if the model is as it was."""
        if self._watch.changed() or self.adapters() != self._adapters:
            return False
        return self._sample is None or torch.equal(self._sample_now(), self._sample)  # type: ignore[arg-type]

    def adapters(self) -> list[str]:
        """The state of each adapted layer, as text."""
        return [str([own.get(name) for name in ADAPTER_STATE]) for own in self._layers]

    def _sample_now(self) -> torch.Tensor | None:
        if not self._views:
            return None
        # As bits, so that NaN equals NaN.
        with torch.no_grad():
            return torch.cat(self._views).contiguous().view(torch.uint8)


def model_revision(model: nn.Module) -> int:
    """The number of the model's revision; another one whenever it was changed since this was asked last."""
    return _revision(model).number


def active_adapters(model: nn.Module) -> str:
    """The state of the model's adapted layers, as text; empty where there are none."""
    return "\n".join(dict.fromkeys(_revision(model).adapters()))


def _revision(model: nn.Module) -> _Revision:
    known = _known.get(model)
    if known is None or not known.stands():
        known = _known[model] = _Revision(model)
    return known


def _sampled(weight: Any) -> bool:
    plain = type(weight) is nn.Parameter and weight.device.type != "meta"
    return plain and weight.is_contiguous() and weight.numel() > 0


def _spread(weight: torch.Tensor) -> torch.Tensor:
    # Neighbours, because joining contiguous pieces is one copy each.
    flat = weight.view(-1)
    middle = max(0, (len(flat) - SAMPLED) // 2)
    return flat[middle : middle + SAMPLED]
