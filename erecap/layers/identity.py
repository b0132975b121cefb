"""Comparison of a plan's base with the model that it is to be applied to."""

from __future__ import annotations

from typing import Any

from erecap.errors import ModelError
from erecap.layers.plan import Base, LayerPlan
from erecap.models.adapters import describe_adapter
from erecap.models.hashing import fingerprint
from erecap.models.origins import origin_of


def base_of(model: Any) -> Base:
    """The base that a plan for `model` names: the folder that it was loaded from, else the model itself.

    Raises:
        ModelError: weights without a fingerprint.
    """
    origin = origin_of(model)
    if origin is None:
        return Base(type(model).__name__, fingerprint(model))
    adapter = describe_adapter(str(origin.adapter))["hash"] if origin.adapter is not None else None
    return Base(origin.folder.name, fingerprint(origin.folder), adapter)


def check_base(model: Any, plan: LayerPlan, layers: int, base: Base | None) -> None:
    """Refuse a plan of another base.

    Args:
        layers: decoder layers of the model.
        base: what the model is; None: found out where the plan names one.

    Raises:
        ModelError: the plan is for another model, or for other weights of it.
    """
    if plan.layers != layers:
        raise ModelError(f"the layer plan is for a model of {plan.layers} layers, this one has {layers}")
    wanted = plan.base
    if wanted is None:
        return
    known = base or base_of(model)
    origin = origin_of(model)
    adapter_known = base is not None or origin is None or origin.adapter_known
    if known.hash != wanted.hash or (adapter_known and known.adapter != wanted.adapter):
        raise ModelError(
            f"the layer plan was made for {wanted.name}, {_words(wanted)}; this model is {known.name}, {_words(known)}"
        )


def _words(base: Base) -> str:
    return f"weights {base.hash[:23]} with " + (f"adapter {base.adapter[:23]}" if base.adapter else "no adapter")
