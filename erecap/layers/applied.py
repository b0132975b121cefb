"""The plan that is applied to a model just now, for whoever remembers something of the model's layers."""

from __future__ import annotations

import weakref
from itertools import count

from torch import nn

from erecap.layers.decoder import find_decoder
from erecap.layers.plan import LayerPlan

_numbers = count(1)
_plans: weakref.WeakKeyDictionary[nn.Module, tuple[int, LayerPlan]] = weakref.WeakKeyDictionary()


def plan_of(model: nn.Module) -> LayerPlan | None:
    """The plan that is applied to the model; None: none is."""
    known = _plans.get(_decoder(model))
    return None if known is None else known[1]


def plan_number(model: nn.Module) -> int:
    """A number for the model's layers as they are now: 0 without a plan, another one for each plan applied."""
    known = _plans.get(_decoder(model))
    return 0 if known is None else known[0]


def remember(decoder: nn.Module, plan: LayerPlan) -> None:
    """Note that `plan` is applied to this decoder."""
    _plans[decoder] = (next(_numbers), plan)


def forget(decoder: nn.Module) -> None:
    """Note that the decoder's layers are those of the base again."""
    _plans.pop(decoder, None)


def _decoder(model: nn.Module) -> nn.Module:
    try:
        return find_decoder(model)
    except ValueError:  # then no plan can have been applied to it
        return model
