"""E-RECAP: middleware that keeps a language-model planner's replanning calls cheap.

`import erecap` loads neither torch nor transformers; the names below are imported when they are first used. If torch
is not loaded yet, it also sets the waiting policy of OpenMP threads (see `erecap.threading_policy`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from erecap import threading_policy as threading_policy  # before any of our modules loads torch

if TYPE_CHECKING:
    from erecap.budget import Budget
    from erecap.context import Context
    from erecap.errors import ErecapError
    from erecap.session.pool.pool import ReplanPool
    from erecap.session.session import ReplanSession
    from erecap.tokens import PruneConfig, PrunedCache, prune
    from erecap.wrapping import wrap

__version__ = "0.2.0"

__all__ = [
    "Budget",
    "Context",
    "ErecapError",
    "PruneConfig",
    "PrunedCache",
    "ReplanPool",
    "ReplanSession",
    "__version__",
    "prune",
    "wrap",
]

_HOME = {
    "Budget": "erecap.budget",
    "Context": "erecap.context",
    "ErecapError": "erecap.errors",
    "PruneConfig": "erecap.tokens",
    "PrunedCache": "erecap.tokens",
    "ReplanPool": "erecap.session",
    "ReplanSession": "erecap.session",
    "prune": "erecap.tokens",
    "wrap": "erecap.wrapping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'erecap' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
