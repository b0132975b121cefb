"""Early exit for a model at hand: its predictor loaded and compared, or the layers that draft."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from erecap.config.exits import Exit
from erecap.decoding.exits.draft_length import DraftLength
from erecap.decoding.exits.drafting import ExitState
from erecap.decoding.exits.files import WEIGHTS, find_exits, load_exits, read_card
from erecap.decoding.exits.looks import ConfidenceJudge, PredictorJudge
from erecap.decoding.exits.predictor import TrainedExits
from erecap.decoding.exits.schedule import Schedule
from erecap.decoding.fused import fused_problem
from erecap.layers.applied import plan_number, plan_of
from erecap.layers.decoder import find_decoder
from erecap.models.adapters import describe_adapter
from erecap.models.hashing import fingerprint
from erecap.models.origins import origin_of

CONFIDENT = 0.8  # least probability of a token that the first layers draft
_log = logging.getLogger(__name__)
# Sessions on one model share a predictor, and a model's folder is hashed once.
_LOADED: WeakKeyDictionary[Any, dict[tuple[Path, int, int], TrainedExits]] = WeakKeyDictionary()


def open_exits(settings: Exit, model: Any) -> ExitState:
    """The early exits of a new session on `model`.

    Raises:
        ConfigError: no predictor of that name.
        ModelError: it is damaged, untested, or of another model.
        ValueError: a model that cannot be read layer by layer, or a layer that it does not have.
    """
    problem = fused_problem(model)
    if problem is not None:
        raise ValueError(f"exit: {type(model).__name__} cannot be read layer by layer: {problem}")
    layers = len(find_decoder(model).layers)
    if settings.layer is not None:
        if settings.layer >= layers:
            raise ValueError(f"exit: layer is {settings.layer}; allowed: 1 to {layers - 1} of this model")
        threshold = CONFIDENT if settings.threshold is None else settings.threshold
        judge: Any = ConfidenceJudge(settings.layer, threshold)
        depth, small, nbytes = settings.layer / layers, None, 0
    else:
        trained = trained_exits(str(settings.predictor), model)
        threshold = trained.threshold if settings.threshold is None else settings.threshold
        judge = PredictorJudge(
            trained, Schedule(settings.schedule, trained.predictor.layers, trained.static), threshold
        )
        depth, small, nbytes = max(trained.static) / layers, trained.small, trained.predictor.nbytes()
    length = DraftLength(settings.drafts, depth)
    return ExitState(judge, layers, small, length, settings.lossless, settings.checks, nbytes)


def trained_exits(name: str | Path, model: Any) -> TrainedExits:
    """The predictor of that name or folder, compared with `model` as far as its origin is known; loaded once.

    Raises:
        ConfigError: no such folder.
        ModelError: damaged, untested, or of another model.
    """
    folder = find_exits(name)
    written = (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).exists() else 0
    key, known = (folder.resolve(), written, plan_number(model)), _LOADED.setdefault(model, {})
    if key not in known:
        known[key] = _load_checked(folder, model)
    return known[key]


def _load_checked(folder: Path, model: Any) -> TrainedExits:
    shape, plan, origin = model.config.get_text_config(decoder=True), plan_of(model), origin_of(model)
    facts: dict[str, Any] = {
        "layers": len(find_decoder(model).layers), "hidden_size": shape.hidden_size, "vocabulary": shape.vocab_size,
        "plan": None if plan is None else plan.digest(),
    }  # fmt: skip
    if origin is None:
        _log.warning(
            "exit predictor %s: where this model's weights come from is not known, so only its shape was compared",
            folder.name,
        )
        return load_exits(folder, **facts)
    if origin.adapter_known:
        adapter = describe_adapter(str(origin.adapter))["hash"] if origin.adapter is not None else None
    else:
        base = read_card(folder)["base"]
        adapter = base.get("adapter") if isinstance(base, dict) else None
        _log.warning(
            "exit predictor %s: whether the adapter that it was trained for is merged into this model is not known, so "
            "only the base was compared", folder.name
        )  # fmt: skip
    return load_exits(folder, **facts, base=fingerprint(origin.folder), adapter=adapter)
