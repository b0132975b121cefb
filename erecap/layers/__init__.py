"""Layer plans: which sublayers, blocks, heads and channels of a model are left out, applied and saved.

Names that need torch are imported when first asked for.
"""

from __future__ import annotations

from typing import Any

_HOME = {
    "AppliedPlan": "erecap.layers.applying",
    "Base": "erecap.layers.plan",
    "LayerPlan": "erecap.layers.plan",
    "apply": "erecap.layers.applying",
    "describe_plan": "erecap.layers.files",
    "export": "erecap.layers.exporting",
    "load_plan": "erecap.layers.files",
    "masked": "erecap.layers.masking",
    "plan_of": "erecap.layers.applied",
    "save_plan": "erecap.layers.files",
    "with_plan": "erecap.layers.applying",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
