"""Searches for layer plans: methods that remove sublayers or blocks step by step, behind one interface.

Names that need torch are imported when first asked for.
"""

from __future__ import annotations

from typing import Any

from erecap.registries import LAYER_SEARCHES

register = LAYER_SEARCHES.register  # (name, factory): adds a method from another package

_HOME = {
    "Latencies": "erecap.layers.search.latencies",
    "Search": "erecap.layers.search.search",
    "SearchFolder": "erecap.layers.search.folder",
    "SearchOptions": "erecap.layers.search.options",
    "Step": "erecap.layers.search.steps",
    "Sublayer": "erecap.layers.search.steps",
    "Target": "erecap.layers.search.finding",
    "find": "erecap.layers.search.finding",
    "uses": "erecap.layers.search.options",
}

__all__ = ["LAYER_SEARCHES", "register", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
