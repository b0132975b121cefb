"""A search for layer plans on an opened model: texts, latencies, steps, all kept in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from erecap.bench.layer_clock import LayerClock, measure_latencies
from erecap.errors import ConfigError, RunError
from erecap.language_models.opened import OpenedModel
from erecap.layers.search import Latencies, Search, SearchFolder, SearchOptions, Target, find
from erecap.layers.search.folder import same_setting
from erecap.layers.search.held_out import HeldOut
from erecap.layers.search.options import options_of
from erecap.registries import LAYER_SEARCHES
from erecap.tuning.calibration_texts import PLANNER, TextSource, calibration_ids, digest_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class LayerSearch:
    """Settings of a search.

    Raises:
        ConfigError: a number out of range, or no such method.
    """

    method: str  # a name of `erecap.registries.LAYER_SEARCHES`
    target: Target
    options: SearchOptions = field(default_factory=SearchOptions)
    texts: tuple[str, ...] = (PLANNER,)  # see `calibration_ids`
    count: int = 64  # calibration sequences
    length: int = 256  # tokens of each
    held_out: int = 16  # sequences of the same texts that judge the steps; 0: none
    evaluate_every: int = 1  # steps between two judgements
    seed: int = 0
    clock: LayerClock = field(default_factory=LayerClock)
    latencies: Path | None = None  # another search of the same model, whose latencies are taken; None: measured

    def __post_init__(self) -> None:
        LAYER_SEARCHES.get_or_refuse(self.method, "method")
        for name, least in (("count", 1), ("length", 2), ("held_out", 0), ("evaluate_every", 1), ("seed", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option}: got {getattr(self, name)}; allowed: {least} or more")


def search_layers(
    settings: LayerSearch,
    opened: OpenedModel,
    folder: Path,
    *,
    fresh: bool = False,
    anew: str = "--fresh starts anew",
    say: Say = lambda text: None,
) -> SearchFolder:
    """Search until the target is reached; what lies in `folder` already is not searched again.

    Args:
        opened: a model without a layer plan.
        fresh: forget what lies in `folder`.
        anew: words that tell how to start anew, for messages.

    Raises:
        ConfigError: texts, lengths or a target that cannot be.
        RunError: the folder holds another search, or a damaged one.
        ModelError: a model that cannot be searched.
    """
    if settings.target.sublayers is not None:  # known before anything is measured
        settings.target.check(opened.facts["layers"], None)
    found = calibration_ids(
        settings.texts,
        opened.tokenizer,
        count=settings.count + settings.held_out,
        length=settings.length,
        seed=settings.seed,
    )
    ids, held_out = found[: settings.count], found[settings.count :]
    search = Search(opened.model, ids, {}, settings.options, settings.seed)
    head = head_of(settings, opened, ids, held_out, found.sources)
    with _alone(folder):
        kept = SearchFolder(folder, fresh=fresh, anew=anew)
        if kept.begin(head, lambda: _measured(settings, opened, ids, head, say)):
            say(f"{kept.path} holds this search already; its latencies are kept")
        search.latencies = kept.latencies
        judge = HeldOut(opened.model, held_out) if held_out else None
        find(search, settings.method, kept, settings.target, held_out=judge, every=settings.evaluate_every, say=say)
    return kept


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within, no other process searches in `folder`. Raises RunError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder}: another process searches here; wait for it, or name another --out") from None
    try:
        yield
    finally:
        lock.release()


def _measured(
    settings: LayerSearch, opened: OpenedModel, ids: Sequence[Sequence[int]], head: dict[str, Any], say: Say
) -> dict[str, Latencies]:
    """The latencies of this model, measured on the calibration text, or those of another search."""
    if settings.latencies is not None:
        return _latencies_of(settings.latencies, head)
    text = [token for row in ids for token in row]  # times do not depend on its words
    text *= -(-settings.clock.tokens // len(text))
    return measure_latencies(opened.model, text[: settings.clock.tokens], settings.clock, say)


def head_of(
    settings: LayerSearch,
    opened: OpenedModel,
    ids: Sequence[tuple[int, ...]],
    held_out: Sequence[tuple[int, ...]],
    sources: Sequence[TextSource],
) -> dict[str, Any]:
    """Settings that the steps of a search depend on, except for latencies."""
    used = options_of(LAYER_SEARCHES[settings.method])
    return {
        "base": vars(opened.base),
        "layers": opened.facts["layers"],
        "dtype": opened.facts["dtype"],
        "method": settings.method,
        "options": {name: value for name, value in vars(settings.options).items() if name in used},
        "seed": settings.seed,
        "calibration": {
            "sequences": len(ids),
            "length": settings.length,
            "digest": digest_of(ids),
            "sources": [vars(source) for source in sources],
        },
        "held_out": {"sequences": len(held_out), "digest": digest_of(held_out)},
        "evaluate_every": settings.evaluate_every,
    }


def _latencies_of(folder: Path, head: dict[str, Any]) -> dict[str, Latencies]:
    """The latencies of another search, so that methods are compared on one footing."""
    other = SearchFolder.open(folder)
    for key in ("base", "dtype"):
        if other.head is not None and not same_setting(key, other.head[key], head[key]):
            raise ConfigError(f"--latencies: {folder} is a search with {key} {other.head[key]}, here it is {head[key]}")
    return other.latencies
