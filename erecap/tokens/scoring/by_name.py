"""Eviction rankings by name: a criterion, or a trained pruner given by its name or folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from erecap.errors import ConfigError, ModelError
from erecap.layers.applied import plan_number, plan_of
from erecap.models.adapters import describe_adapter
from erecap.models.hashing import fingerprint
from erecap.models.origins import Origin, origin_of
from erecap.registries import EVICT_BY
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.pruner_files import WEIGHTS, find_pruner, load_pruner, read_card

Scorer = TypeVar("Scorer")  # a `ReadScorer`

_log = logging.getLogger(__name__)
# By model, pruner and time of its file: sessions on one model share a scorer, and a model's folder is hashed once.
_SCORERS: WeakKeyDictionary[Any, dict[tuple[Path, int, int], LearnedScorer]] = WeakKeyDictionary()


def learned_scorer(
    name: str | Path,
    model: Any,
    *,
    base: str | None = None,
    adapter: str | None = None,
    allow_untested: bool = False,
) -> LearnedScorer:
    """Load a trained pruner for a model that is at hand.

    Args:
        name: a folder, or the name of a checkpoint.
        model: a causal language model of transformers; hidden size and layers are its own. Where a layer plan took
            blocks out, the pruner's stages move to the layers that are left.
        base: fingerprint of the folder that the model was loaded from; None: not compared.
        adapter: hash of the adapter that was merged into the model, if one was; compared with `base`.
        allow_untested: also load one whose card does not show that it beats `random` at the same budget.

    Raises:
        ConfigError: no such folder.
        ModelError: made for another model, damaged, or untested; or a layer plan took out all layers between two
            stages.
    """
    shape, plan = model.config.get_text_config(decoder=True), plan_of(model)
    pruner = load_pruner(
        name,
        hidden_size=shape.hidden_size,
        layers=shape.num_hidden_layers if plan is None else plan.layers,
        base=base,
        adapter=adapter,
        allow_untested=allow_untested,
    )
    if plan is None or not plan.blocks:
        return LearnedScorer(pruner)
    places = {stage: sum(layer < stage for layer in plan.kept) for stage in pruner.stages}
    try:
        return LearnedScorer(pruner.moved(places, len(plan.kept)))
    except ValueError as error:
        raise ModelError(f"pruner {name} does not fit the layer plan: {error}") from error


def scorer_for(evict_by: str | Scorer, model: Any) -> str | Scorer | LearnedScorer:
    """The ranking that `evict_by` means for a session on `model`.

    Args:
        evict_by: one of `EVICT_BY`, which is returned as it is; the name or folder of a trained pruner, which is
            loaded; or a scorer already.
        model: the session's model. A pruner must have been trained for it: its folder's fingerprint is compared, and
            its adapter's, as far as they are known (`erecap.models.origins`).

    Raises:
        ValueError: an unknown name, or a pruner for a model that is not one of transformers.
        ModelError: a pruner of another model, a damaged or an untested one.
    """
    if not isinstance(evict_by, str) or evict_by in EVICT_BY:
        return evict_by
    try:
        folder = find_pruner(evict_by)
    except ConfigError as error:
        raise ValueError(
            f"unknown evict_by {evict_by!r}; allowed: {', '.join(EVICT_BY)}, or the name or folder of a trained pruner"
        ) from error
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ValueError(
            f"the pruner {evict_by!r} ranks for a causal language model of transformers, got {type(model).__name__}; "
            f"use evict_by={' or '.join(map(repr, EVICT_BY))}"
        )
    written = (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).exists() else 0
    key, known = (folder.resolve(), written, plan_number(model)), _SCORERS.setdefault(model, {})
    if key not in known:
        known[key] = _load_checked(folder, model, origin_of(model))
    return known[key]


def _load_checked(folder: Path, model: Any, origin: Origin | None) -> LearnedScorer:
    if origin is None:
        scorer = learned_scorer(folder, model)
        _log.warning(
            "pruner %s: where this model's weights come from is not known, so only hidden size and layers were "
            "compared with those that it was trained for", folder.name
        )  # fmt: skip
        return scorer
    base = fingerprint(origin.folder)
    if origin.adapter_known:
        adapter = describe_adapter(str(origin.adapter))["hash"] if origin.adapter is not None else None
        return learned_scorer(folder, model, base=base, adapter=adapter)
    wanted = (read_card(folder).get("base") or {}).get("adapter")
    scorer = learned_scorer(folder, model, base=base, adapter=wanted)
    _log.warning(
        "pruner %s: whether the adapter that it was trained for (%s) is merged into this model is not known, so only "
        "the base was compared", folder.name, wanted or "none"
    )  # fmt: skip
    return scorer
