"""Layer plans of a front: prefixes of searches on one calibration, and slices, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from erecap.errors import ModelError
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.language_models.opened import OpenedModel
from erecap.layers import LayerPlan, load_plan, save_plan
from erecap.layers.files import PLAN
from erecap.layers.search import SearchFolder, Target
from erecap.layers.search.folder import NAME
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.profiles import Source, known, make
from erecap.tuning.calibration_texts import calibration_ids
from erecap.tuning.layer_search import LayerSearch, search_layers

Say = Callable[[str], None]
SEARCHES, PLANS = "searches", "plans"  # folders


@dataclass(frozen=True)
class Candidate:
    """One layer plan of a front."""

    name: str  # sprint-6, heads-0.2
    method: str  # a search method, or heads or channels
    folder: Path
    out: str  # the parts that are out, in words
    steps: int | None = None  # of a search
    predicted: Mapping[str, float] = field(default_factory=dict)  # speed-up by phase, of a search


def search_all(settings: FrontSettings, opened: OpenedModel, folder: Path, say: Say) -> dict[str, SearchFolder]:
    """Search with every method, on one calibration and with the latencies that were measured first.

    Raises:
        ConfigError, RunError, ModelError: as `search_layers`.
    """
    found: dict[str, SearchFolder] = {}
    for method in settings.methods:
        own = folder / SEARCHES / method
        others = sorted(path.parent for path in folder.glob(f"{SEARCHES}/*/{NAME}") if path.parent != own)
        search = LayerSearch(
            method=method,
            target=Target(speed_up=max(settings.speed_ups)),
            options=settings.options,
            texts=settings.texts,
            count=settings.count,
            length=settings.length,
            held_out=0,  # plans are judged by the plans that they write
            seed=settings.seed,
            clock=settings.clock,
            latencies=next(iter(others), None),
        )
        say(f"searching with {method}")
        found[method] = search_layers(search, opened, own, anew=f"delete {own} to start anew", say=say)
    return found


def prefixes(searches: Mapping[str, SearchFolder], settings: FrontSettings, folder: Path) -> list[Candidate]:
    """Of each search the fewest steps for every predicted speed-up, as plans."""
    found = []
    for method, search in searches.items():
        for steps in sorted({search.steps_for("decode", one) for one in settings.speed_ups}):
            plan, name = search.plan(steps), f"{method}-{steps}"
            _keep(folder / PLANS / name, plan)
            predicted = search.rows[steps].predicted
            found.append(Candidate(name, method, folder / PLANS / name, plan.words(), steps, predicted))
    return found


def sliced(settings: FrontSettings, opened: OpenedModel, folder: Path, say: Say) -> list[Candidate]:
    """The slices; those that were made from the same inputs are kept.

    Raises:
        ConfigError, ModelError: as `Slicer.plan`.
    """
    wanted = settings.slice_settings()
    if not wanted:
        return []
    ids = calibration_ids(
        settings.texts, opened.tokenizer, count=settings.slice_count, length=settings.length, seed=settings.seed
    )
    source, slicer, found = Source(opened.base, opened.facts["dtype"], ids), None, []
    for name, one in wanted.items():
        own = folder / PLANS / name
        plan = known(own, source, one)
        if plan is None:
            slicer = slicer or Slicer(opened.model, ids, say)
            say(f"slicing {name}")
            plan = make(own, slicer, source, one, "erecap tune layers")
        found.append(Candidate(name, name.partition("-")[0], own, plan.words()))
    return found


def _keep(folder: Path, plan: LayerPlan) -> None:
    """Save a plan, unless it lies there."""
    if (folder / PLAN).exists():
        try:
            old = load_plan(folder)
        except ModelError:  # damaged: saved anew
            old = None
        if old is not None and old.digest() == plan.digest() and old.base == plan.base:
            return
    save_plan(folder, plan)
