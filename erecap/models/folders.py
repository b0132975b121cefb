"""Folders of models."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from erecap.files import cache_dir


def destination() -> Path:
    """The folder that pulled models go into.

    `$ERECAP_CHECKPOINTS` if set, else `checkpoints/` here if there is one, else the cache.
    """
    configured = os.environ.get("ERECAP_CHECKPOINTS")
    if configured:
        return Path(configured).expanduser()
    here = Path("checkpoints")
    return here if here.is_dir() else cache_dir() / "models"


def candidates(name: str) -> list[Path]:
    """Folders that may hold the model called `name`, in the order in which they are tried.

    Where pulled models go, the package's own `checkpoints/` (in a clone: the clone's), the cache, and the
    checkpoints that ship with the package. If `$ERECAP_CHECKPOINTS` is set: only it, and the shipped ones.
    """
    own = Path(str(importlib.resources.files("erecap.checkpoints")))
    parents = [destination()]
    if not os.environ.get("ERECAP_CHECKPOINTS"):
        parents += [own, cache_dir() / "models"]
    parents += [own / "shipped"]
    unique = dict.fromkeys(parent.resolve() for parent in parents)
    return [parent / name for parent in unique]
