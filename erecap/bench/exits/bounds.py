"""Bounds of early exit: what a predictor that is always right would save, with the cost of looking counted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from erecap.bench.exits.named import HEADS, named_rows
from erecap.bench.exits.settings import ExitsBench
from erecap.bench.exits.times import measure_times
from erecap.decoding.exits.states import ExitText
from erecap.decoding.fused import fused_problem
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.layers.decoder import find_decoder

PAYS = 1.15  # a bound below is the verdict: early exit does not pay on this model and text


def exits_bench(
    bench: ExitsBench, model: Any, texts: Sequence[ExitText], say: Callable[[str], None] = lambda line: None
) -> JsonRow:
    """`summary` and `raw` rows of the bounds on `texts`.

    Raises:
        ConfigError: a model whose layers cannot be run one by one.
        RunError: no token is decoded with a choice, or a hidden state is not finite.
    """
    problem = fused_problem(model)
    if problem is not None:
        raise ConfigError(f"early exit: {type(model).__name__} cannot be read layer by layer: {problem}")
    rows, small = named_rows(bench, model, texts, say)
    longest = max(texts, key=lambda text: len(text.ids))
    say("timing layers and head")
    times = measure_times(bench, model, longest.ids, small)
    layers = len(find_decoder(model).layers)
    return {"summary": summarise(rows, times, layers, small, bench.drafts), "raw": rows}


def summarise(rows: Sequence[JsonRow], times: JsonRow, layers: int, small: int, drafts: int) -> JsonRow:
    """Where tokens are named, and the bounds, by head; `verdict` where none reaches `PAYS`."""
    found: JsonRow = {"tokens": len(rows), "layers": layers, "small_vocabulary": small, "times_ms": times, "heads": {}}
    constrained = [row for row in rows if row["allowed"] is not None]
    for name in HEADS:
        own = constrained if name == "grammar" else rows
        if not own:
            continue
        firsts, stables = ([row[name][key] or layers for row in own] for key in ("first", "stable"))
        whole = [row["full"]["first"] or layers for row in own]
        found["heads"][name] = {
            "tokens": len(own),
            "named": sum(row[name]["first"] is not None for row in own) / len(own),
            "mean_first": statistics.mean(firsts),
            "median_first": statistics.median(firsts),
            "mean_stable": statistics.mean(stables),
            "share_by_layer": [sum(first <= n for first in firsts) / len(own) for n in range(1, layers + 1)],
            "bounds": bounds(name, firsts, whole, times, layers, drafts),
            "stable_bounds": bounds(name, stables, whole, times, layers, drafts),
        }
    sliced = times["layers"] + times["slice"]
    found["slice_alone"] = (times["layers"] + times["head"]) / sliced if constrained else None
    found["slice_measured"] = times["token"] / times["chosen"]
    for key in ("checked", "verified"):
        found[f"best_{key}"] = max(entry["bounds"][key] for entry in found["heads"].values())
    found["verdict"] = None if max(found["best_checked"], found["best_verified"]) >= PAYS else "does not pay"
    return found


def bounds(name: str, firsts: Sequence[int], whole: Sequence[int], times: JsonRow, layers: int, drafts: int) -> JsonRow:
    """Speed-ups of decoding with a perfect predictor that leaves where a token is named, layer by layer of `firsts`.

    `layers_only`: nothing but layers counts. `one_head`: the head runs once, at the exit. The others look at every
    layer from the best one on, by the head or by its rows. `checked`: the whole head must name the token at the exit,
    too (from layer `whole` on it does), and skipped layers stay skipped. `verified`: nothing is checked at the exit;
    `drafts` tokens leave early, and the pass that reads the next one finishes and verifies them, so that the tokens are
    those of full decoding.
    """
    layer, head = times["layers"] / layers, times["head"]
    full = times["layers"] + head
    look = {"full": head, "small": times["small"], "draft": times["slice"], "grammar": times["slice"]}[name]
    mean = statistics.mean(firsts)

    def costs(exits: Sequence[int], start: int) -> tuple[float, float]:
        """Layers and looks of a token that leaves at `exits`, on average."""
        late = [max(end, start) for end in exits]
        return statistics.mean(late), look * statistics.mean(end - start + 1 for end in late)

    def checked(start: int) -> float:
        ends = firsts if name in ("full", "grammar") else [max(pair) for pair in zip(firsts, whole, strict=True)]
        early, looks = costs(ends, start)
        return full / (early * layer + looks + (0.0 if name in ("full", "grammar") else head))

    def verified(start: int) -> float:
        early, looks = costs(firsts, start)
        finish = early * layer + (layers - early) * times["layers_chunk"] / layers + times["head_chunk"]
        return (drafts + 1) * full / (drafts * (early * layer + looks) + finish)

    found: JsonRow = {"layers_only": layers / mean, "one_head": full / (mean * layer + head)}
    for key, bound in (("checked", checked), ("verified", verified)):
        start = max(range(1, layers + 1), key=bound)
        found[key], found[f"{key}_from"] = bound(start), start
    return found
