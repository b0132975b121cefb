"""One part of a profile from settings to summary, and the results file that collects parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erecap.bench.profile.calls import learned_by
from erecap.bench.profile.journal import Journal
from erecap.bench.profile.measure import measure
from erecap.bench.profile.peaks import measure_peaks
from erecap.bench.profile.settings import Profile
from erecap.bench.profile.summary import profile_rows, summarise
from erecap.bench.results import merge_rows, read_results, rounded
from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.language_models.opened import shape_of


def play_profile(
    profile: Profile,
    model: Any,
    tokenizer: Any,
    about: JsonRow,
    folder: Path,
    say: Callable[[str], None],
    *,
    source: str,
    adapter: str | None = None,
    fresh: bool = False,
) -> JsonRow:
    """Measure what the journal in `folder` lacks, and summarise all of it.

    Args:
        about: `command`, `date`, `machine`, `versions`, and `model` with `name`, `dtype` and `window`.
        source, adapter: what the model was loaded by, for processes that load it again.

    Raises:
        ConfigError: settings that the model cannot serve.
        RunError: a journal that is damaged, or of other settings; no length that fits into memory.
    """
    config = model.config.get_text_config(decoder=True)
    profile.check(config.max_position_embeddings, config.num_hidden_layers)
    learned_by(profile, model)  # refused before anything is measured
    shape = vars(shape_of(model))
    # Two models of one name are told apart by their shapes, which is what times and memory depend on.
    shared = {**{name: about[name] for name in ("machine", "versions", "model")}, "shape": shape}
    journal = Journal(folder / f"{key_of(profile, about)}.jsonl", {**profile.fixed(), **shared}, fresh=fresh)
    if profile.part == "memory":
        threads = about["machine"]["threads"]
        dtype = about["model"]["dtype"]
        where: dict[str, Any] = {"source": source, "dtype": dtype, "threads": threads, "adapter": adapter}
        measure_peaks(profile, model, tokenizer, journal, say, **where)
    else:
        measure(profile, model, tokenizer, journal, say)
    summary = summarise(profile, journal, shape)
    if not summary["cells"]:
        raise RunError(f"none of the lengths fits into memory: {summary['skipped'][0]['why']}")
    faults = summary.pop("faults")
    rows = profile_rows(profile, journal, about)
    head = {"part": profile.part, "settings": asdict(profile), **about}
    return {**head, "summary": summary, "rows": rows, "faults": faults, "raw": journal.rows}


def key_of(profile: Profile, about: Mapping[str, Any]) -> str:
    """The part's name in files: part, model, adapter, pruner and window."""
    part = "memory-end2end" if (profile.part, profile.of) == ("memory", "end2end") else profile.part
    names = [about["model"]["name"], about["model"].get("adapter"), profile.pruner and Path(profile.pruner).name]
    return "-".join([part, *(name for name in names if name), str(about["model"]["window"])])


def publish_profile(path: Path, part: JsonRow, key: str) -> JsonRow:
    """Merge a part into the results file under its key; what the file holds of others stays."""
    before = read_results(path).get("parts", {})
    kept = {name: part[name] for name in ("part", "date", "command", "machine", "settings", "model", "summary", "raw")}
    return merge_rows(
        path,
        part["rows"],
        file="profile",
        what="what `erecap profile` measured; rows hold the figures that have targets, parts hold all others",
        parts=dict(sorted({**before, key: rounded(kept)}.items())),
    )
