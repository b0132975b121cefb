"""Token pruning inside the model: schedule, scorers, layer hooks, pruned KV cache.

Names that need torch are imported when first asked for, so that `erecap.tokens.SCORER_NAMES` and `PruneConfig`
stay light.
"""

from __future__ import annotations

from typing import Any

from erecap.registries import PRESETS, SCORERS
from erecap.tokens.scoring.schedule import PruneConfig, scheduled_counts, stage_count

_LAZY = {
    "LearnedScorer": "erecap.tokens.scoring.learned",
    "Pruner": "erecap.tokens.scoring.learned",
    "PrunedCache": "erecap.tokens.cache.pruned_cache",
    "ScoreContext": "erecap.protocols",
    "attach": "erecap.tokens.pruning",
    "learned_scorer": "erecap.tokens.scoring.by_name",
    "prune": "erecap.tokens.pruning",
}

register = SCORERS.register  # (name, class): adds a scorer from another package

__all__ = [
    "PRESETS", "SCORERS", "SCORER_NAMES", "PruneConfig", "register", "scheduled_counts", "stage_count", *_LAZY,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "SCORER_NAMES":
        return tuple(SCORERS)
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
