"""The benchmarks as parts with one shape each: settings in; summary, raw rows, result rows and faults out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from erecap.bench.decode import decode_bench, decode_summary
from erecap.bench.decode_settings import DecodeBench
from erecap.bench.drafted_replans import repeated_rows, repeated_summary
from erecap.bench.episode import EpisodeBench, episode_bench
from erecap.bench.episode_summary import episode_rows, episode_summary
from erecap.bench.memory import gpu_growth, peak_growth, replan_growth
from erecap.bench.neighbour import NeighbourBench, neighbour_bench, neighbour_rows, neighbour_summary
from erecap.bench.prefill import MODES, PrefillBench, prefill_bench, prefill_rows, prefill_summary
from erecap.bench.replan.calls import algorithm_call
from erecap.bench.replan.history import check_lengths
from erecap.bench.replan.replan import replan_bench
from erecap.bench.replan.settings import ROW_NAMES, ReplanBench
from erecap.bench.replan.summary import below_floor, ceilings, replan_rows, summarise
from erecap.bench.results import merge_rows, read_results, rounded
from erecap.config.modes import parse_mode
from erecap.errors import RunError
from erecap.files import write_json
from erecap.generation import JsonRow, Message
from erecap.untrusted import read_json

Settings = ReplanBench | PrefillBench | DecodeBench | EpisodeBench | NeighbourBench
Say = Callable[[str], None]
Load = Callable[[], tuple[Any, Any]]

BEST_ENGINE = "erecap bench best-engine"
APART = (BEST_ENGINE, "erecap bench drafts")  # commands that measure a row of `PUBLISHED` more finely than its part
# What `make bench` measures. The order is that of the results' names.
PUBLISHED: dict[str, Settings] = {
    "replan": ReplanBench(rows=ROW_NAMES),
    "prefill": PrefillBench(),
    "decode": DecodeBench(),
    "episode": EpisodeBench(),
    "neighbour": NeighbourBench(),
}


def play(settings: Settings, model: Any, tokenizer: Any, about: JsonRow, say: Say, *, source: str) -> JsonRow:
    """Measure one part.

    Args:
        about: `command`, `date`, `machine`, `versions`, and `model` with `name` and `dtype`.
        source: what the model was loaded by, for processes that load it again.

    Returns:
        `part`, `settings`, what `about` holds, `summary`, `raw`, `rows` (see `result_row`) and `faults` (lines).
    """
    if isinstance(settings, ReplanBench):
        part = _replan(settings, model, tokenizer, about, say, source)
    elif isinstance(settings, PrefillBench):
        part = _prefill(settings, model, tokenizer, about, say, source)
    elif isinstance(settings, DecodeBench):
        found = decode_bench(settings, model, tokenizer, say)
        repeated = repeated_summary(found["repeated"], settings.tokens)
        part = {
            "summary": {"plain": decode_summary(found), "repeated": repeated},
            "raw": found,
            "rows": repeated_rows(repeated, about),
            "faults": [],
        }
    elif isinstance(settings, NeighbourBench):
        part = _neighbour(settings, model, tokenizer, about, say, source)
    else:
        found = episode_bench(settings, model, tokenizer, say)
        summary = episode_summary(found, settings.seed)
        part = {"summary": summary, "raw": found["raw"], "rows": episode_rows(settings, summary, about), "faults": []}
    return {"part": part_of(settings), "settings": asdict(settings), **about, **part}


def part_of(settings: Settings) -> str:
    """`replan`, `prefill`, `decode`, `episode` or `neighbour`."""
    return type(settings).__name__.removesuffix("Bench").lower()


def _replan(settings: ReplanBench, model: Any, tokenizer: Any, about: JsonRow, say: Say, source: str) -> JsonRow:
    def peak(mode: str, history: list[Message], new: Message) -> float | None:
        if model.device.type == "cuda":
            return gpu_growth(
                model, partial(algorithm_call, parse_mode(mode), settings, model, tokenizer, history, new)
            )
        dtype, threads = about["model"]["dtype"], about["machine"]["threads"]
        return replan_growth(source, dtype, mode, settings, history, new, threads)

    found = replan_bench(settings, model, tokenizer, say, peak)
    raw, quality = found["raw"], found.get("quality")
    bounds = ceilings(raw, found["shape"], found["attention_shares"])
    return {
        "summary": {
            "calls": summarise(raw, found.get("peaks", ())),
            "skipped": found["skipped"],
            "ceilings": bounds,
            "attention_shares": found["attention_shares"],
            "quality": quality,
        },
        "raw": raw,
        "rows": replan_rows(raw, about, quality),
        "faults": [*(fault_line(entry) for entry in bounds if entry["fault"]), *below_floor(raw)],
    }


def _prefill(settings: PrefillBench, model: Any, tokenizer: Any, about: JsonRow, say: Say, source: str) -> JsonRow:
    found = prefill_bench(settings, model, tokenizer, say)
    memory: dict[str, float | None] = {}
    if model.device.type == "cpu":
        for mode in MODES:
            say(f"peak memory of {mode}, in a process of its own")
            memory[mode] = peak_growth(
                source,
                about["model"]["dtype"],
                mode,
                found["ids"],
                settings.keep,
                settings.scorer,
                about["machine"]["threads"],
            )
    summary = prefill_summary(settings, found, memory)
    return {
        "summary": summary,
        "raw": {"calls": found["raw"], "kept": found["kept"]},
        "rows": prefill_rows(settings, summary, about),
        "faults": [fault_line(summary["ceiling"])] if summary["ceiling"]["fault"] else [],
    }


def _neighbour(settings: NeighbourBench, model: Any, tokenizer: Any, about: JsonRow, say: Say, source: str) -> JsonRow:
    check_lengths((settings.length,), settings.new_tokens, settings.plan_tokens, model)
    found = neighbour_bench(settings, tokenizer, source, about["model"]["dtype"], about["machine"]["threads"], say)
    summary = neighbour_summary(found)
    return {"summary": summary, "raw": found["raw"], "rows": neighbour_rows(settings, found, about), "faults": []}


def fault_line(entry: Mapping[str, Any]) -> str:
    """One line on a figure above its ceiling."""
    timed = entry["time_ceiling"]
    weighted = "" if timed is None else f", {timed:.2f} weighted by time"
    return (
        f"prefill of {entry['mode']} at {entry['length']:,} tokens is {entry['speed_up']:.2f} times faster than full "
        f"(at least {entry['low']:.2f}), above its ceiling of {entry['flop_ceiling']:.2f} from FLOPs{weighted}"
    )


def play_all(
    parts: Mapping[str, Settings],
    load: Load,
    folder: Path,
    about: JsonRow,
    *,
    source: str,
    fresh: bool,
    say: Say,
) -> dict[str, JsonRow]:
    """Measure `parts`, each into `folder`; those found there with the same settings and model are taken as they are.

    Args:
        load: loads model and tokenizer; asked only if something is left to measure.
        fresh: measure everything anew.
    """
    done: dict[str, JsonRow] = {}
    loaded: tuple[Any, Any] | None = None
    for name, settings in parts.items():
        path = folder / f"{name}.json"
        before = None if fresh else measured_part(path, asdict(settings), about)
        if before is not None:
            say(f"{name}: measured on {before['date']} already, kept ({path.name}; --fresh measures anew)")
            done[name] = before
            continue
        loaded = loaded or load()
        part_about = {**about, "command": f"{about['command']} --parts {name}"}
        write_part(path, play(settings, *loaded, part_about, say, source=source))
        done[name] = read_part(path) or {}
    return done


def measured_part(path: Path, settings: JsonRow, about: JsonRow) -> JsonRow | None:
    """The part in `path` if it was measured with the same settings, model, machine and versions; else None."""
    before = read_part(path)
    same = {"settings": settings, **{key: about[key] for key in ("model", "machine", "versions")}}
    wanted = json.loads(json.dumps(same))
    return before if before is not None and all(before.get(key) == wanted[key] for key in wanted) else None


def write_part(path: Path, part: JsonRow) -> None:
    """Write a part's file, figures cut to three decimals."""
    write_json(path, {**rounded(part), "rows": part["rows"]})


def read_part(path: Path) -> JsonRow | None:
    """A part's file; None where there is none. Raises RunError for a damaged one."""
    if not path.exists():
        return None
    try:
        part: JsonRow = read_json(path)
    except ValueError as error:
        raise RunError(f"{path.name}: not JSON ({error}); delete it to measure that part anew") from error
    if not isinstance(part, dict) or "rows" not in part:
        raise RunError(f"{path.name}: holds no part of a benchmark; delete it to measure that part anew")
    return part


def publish(path: Path, parts: Mapping[str, JsonRow], about: JsonRow) -> JsonRow:
    """Merge the parts into the results file: their rows by id, their settings, summaries and raw rows by part.

    Rows that a command of `APART` measured stay: R1 on more engines than transformers, R7 with more ways to draft.
    """
    before = read_results(path)
    kept = {(row["id"], row["row"]) for row in before.get("rows", ()) if row.get("command") in APART}
    rows = [row for part in parts.values() for row in part["rows"] if (row["id"], row["row"]) not in kept]
    measured = {
        name: {key: part[key] for key in ("date", "command", "settings", "model", "summary", "raw")}
        for name, part in parts.items()
    }
    head = {key: about[key] for key in ("date", "machine", "versions", "model")}
    return merge_rows(
        path,
        rows,
        what="what `erecap bench all` measured; rows hold the figures that have targets, parts hold all others",
        **head,
        parts={**before.get("parts", {}), **measured},
    )
