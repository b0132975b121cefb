"""Profiles: slices of one model that are made once, and made again when what they are made from has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError, ModelError
from erecap.layers.files import PLAN, load_plan, save_plan
from erecap.layers.plan import Base, LayerPlan
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.settings import SliceSettings

METHOD = "slice"
RATIOS = (0.1, 0.2, 0.3)
VERSION = 1  # of the way in which slices are made; another one makes all profiles anew


@dataclass(frozen=True)
class Source:
    """The model that slices are made of, and the text that they are calibrated on.

    Attributes:
        base: the model as a plan names it.
        dtype: number format of its weights.
        ids: calibration texts as token ids; empty where no slice needs any.
        texts: where they came from, for the card.
    """

    base: Base
    dtype: str
    ids: Sequence[Sequence[int]] = ()
    texts: Mapping[str, Any] | None = None

    def digest(self, settings: SliceSettings) -> str:
        """SHA-256 of everything that a slice is made from."""
        parts = [VERSION, self.base.hash, self.base.adapter, self.dtype, settings.facts()]
        if settings.needs_text:
            parts.append([list(text) for text in self.ids])
        return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def six_profiles(settings: SliceSettings, ratios: Sequence[float] = RATIOS) -> dict[str, SliceSettings]:
    """Static profiles by name: heads alone and channels alone, at each ratio; all else as in `settings`."""
    heads = {f"heads-{ratio:g}": replace(settings, heads=ratio, channels=0.0) for ratio in ratios}
    return heads | {f"channels-{ratio:g}": replace(settings, heads=0.0, channels=ratio) for ratio in ratios}


def known(folder: Path, source: Source, settings: SliceSettings) -> LayerPlan | None:
    """The plan in `folder` if it was made from the same inputs; None: none is there, or it has to be made anew.

    Raises:
        ConfigError: the folder holds a plan that is no slice.
    """
    if not (folder / PLAN).exists():
        return None
    try:
        plan = load_plan(folder)
    except ModelError:  # damaged: made anew
        return None
    if plan.found.get("method") != METHOD:
        raise ConfigError(f"{folder} holds a layer plan of another kind; choose another folder")
    return plan if plan.found.get("inputs") == source.digest(settings) else None


def make(folder: Path, slicer: Slicer, source: Source, settings: SliceSettings, command: str) -> LayerPlan:
    """Make a slice and save it in `folder`, which gets the place of what it held."""
    plan = slicer.plan(settings)
    found = {
        "method": METHOD,
        "command": command,
        "settings": settings.facts(),
        "inputs": source.digest(settings),
        **({"calibration": dict(source.texts)} if settings.needs_text and source.texts else {}),
        **plan.found,
    }
    plan = replace(plan, base=source.base, found=found)
    save_plan(folder, plan)
    return plan
