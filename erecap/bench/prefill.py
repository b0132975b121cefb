"""The time of a cold prefill: pruned with a stage schedule against the unmodified model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from erecap.bench.replan.calls import in_turn, synchronise
from erecap.bench.replan.ceilings import attention_share, bounded, ratio
from erecap.bench.replan.history import wander
from erecap.bench.results import Figure, result_row
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.language_models.opened import shape_of
from erecap.models.cache_argument import CACHE
from erecap.protocols import TokenScorer
from erecap.targets import TARGETS
from erecap.tokens import SCORER_NAMES, PruneConfig, prune

FULL, PRUNED, WHOLE = "full", "prune", "keep 1.0"
MODES = (FULL, PRUNED, WHOLE)
WITHIN = 0.03  # how much longer than `full` the pruned path may take where it drops nothing


@dataclass(frozen=True)
class PrefillBench:
    """Settings of `erecap bench prefill`."""

    tokens: int = 4096  # of household text
    keep: float = 0.7  # of each stage
    scorer: str = "recency"
    repetitions: int = 5
    seed: int = 0


def prefill_call(
    mode: str, model: Any, ids: Sequence[int], keep: float, scorer: str | TokenScorer
) -> Callable[[], list[int]]:
    """A function that reads `ids` on an empty cache up to the logits of the last token.

    Returns:
        It returns the tokens that each layer read. `full` is the stock model with its stock cache.
    """
    inputs = torch.tensor([list(ids)], device=model.device)
    layers = model.config.get_text_config(decoder=True).num_hidden_layers

    def full() -> list[int]:
        with torch.no_grad():
            model(input_ids=inputs, **{CACHE: DynamicCache()}, use_cache=True, logits_to_keep=1)
        synchronise(model)
        return [len(ids)] * layers

    # The stages stay where they are: keep 1.0 runs through scoring and gathering as well.
    config = PruneConfig(scorer=scorer, keep=keep if mode == PRUNED else 1.0)

    def pruned() -> list[int]:
        with torch.no_grad(), prune(model, config) as cache:
            model(input_ids=inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
            synchronise(model)
            return list(cache.prompt_kept)

    return full if mode == FULL else pruned


def household_ids(tokens: int, tokenizer: Any, seed: int) -> list[int]:
    """The first `tokens` token ids of a household chat."""

    def count(messages: Sequence[Any]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    return render_prompt(wander(tokens, count, seed=seed), tokenizer).input_ids[:tokens]


def prefill_bench(
    bench: PrefillBench, model: Any, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """Raw rows and the ceiling: the modes in turn, each warmed up once before.

    Returns:
        `raw`, `kept` (tokens read per layer by mode), `attention_share`, `shape`, `ids` (of the text).

    Raises:
        ConfigError: an unknown scorer, or tokens that do not fit the window.
    """
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    if not 16 <= bench.tokens <= window:
        raise ConfigError(f"tokens must be from 16 to the model's window of {window}, got {bench.tokens}")
    if bench.scorer not in SCORER_NAMES:
        raise ConfigError(f"unknown scorer {bench.scorer!r}; allowed: {', '.join(SCORER_NAMES)}")
    try:
        PruneConfig(keep=bench.keep).resolve_stages(len(model.get_decoder().layers))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    ids = household_ids(bench.tokens, tokenizer, bench.seed)
    calls = {mode: prefill_call(mode, model, ids, bench.keep, bench.scorer) for mode in MODES}
    say(f"prefill of {bench.tokens} tokens: warming up")
    kept = {mode: call() for mode, call in calls.items()}
    raw: list[JsonRow] = []
    for repetition, mode, call in in_turn(calls, bench.repetitions):
        started = time.perf_counter()
        call()
        took = 1e3 * (time.perf_counter() - started)
        raw.append({"mode": mode, "repetition": repetition, "prefill_ms": took})
        if mode == MODES[-1]:
            say(f"prefill of {bench.tokens} tokens: {repetition + 1} of {bench.repetitions} repetitions")
    share = attention_share(model, ids)
    return {"raw": raw, "kept": kept, "attention_share": share, "shape": vars(shape_of(model)), "ids": ids}


def prefill_summary(bench: PrefillBench, found: JsonRow, memory: dict[str, float | None]) -> JsonRow:
    """Medians and memory by mode, the speed-up beside its ceilings, and the cost of the pruned path at keep 1.0.

    `overhead` is a ratio of times with its range; `fault` is set where the speed-up lies above its ceiling.
    """
    from erecap.cost.flops import ModelShape

    times = {mode: [r["prefill_ms"] for r in found["raw"] if r["mode"] == mode] for mode in MODES}
    figure = bounded(
        ratio(times[FULL], times[PRUNED]),
        ModelShape(**found["shape"]),
        found["kept"][PRUNED],
        found["kept"][FULL],
        found["attention_share"],
        bench.scorer,
    )
    overhead = ratio(times[WHOLE], times[FULL])
    return {
        "modes": [
            {
                "mode": mode,
                "prefill_ms": statistics.median(times[mode]),
                "min_ms": min(times[mode]),
                "max_ms": max(times[mode]),
                "peak_bytes": memory.get(mode),
                "mean_kept": sum(found["kept"][mode]) / len(found["kept"][mode]),
            }
            for mode in MODES
        ],
        "ceiling": {"length": bench.tokens, "mode": f"prune[{bench.scorer}]", **figure.as_row()},
        "overhead": {"value": overhead.value, "low": overhead.low, "high": overhead.high},
        "overhead_holds": overhead.value <= 1 + WITHIN,
        "attention_share": found["attention_share"],
    }


def prefill_rows(bench: PrefillBench, summary: JsonRow, about: JsonRow) -> list[JsonRow]:
    """The row R6, where its settings were measured."""
    published = PrefillBench()
    if (bench.tokens, bench.keep) != (published.tokens, published.keep):
        return []
    ceiling, overhead = summary["ceiling"], summary["overhead"]["value"]
    share = Figure(
        ceiling["share"],
        ceiling["low"] / ceiling["flop_ceiling"],
        ceiling["high"] / ceiling["flop_ceiling"],
        bench.repetitions,
    )
    timed = "" if ceiling["time_ceiling"] is None else f", {ceiling['time_ceiling']:.2f} weighted by time"
    note = (
        f"{ceiling['speed_up']:.2f} of {ceiling['flop_ceiling']:.2f} (FLOPs){timed}; the pruned path at keep 1.0 takes "
        f"{overhead:.3f} times as long as `full`" + ("" if summary["overhead_holds"] else ", more than 1.03")
    )
    # The share means nothing where dropping no tokens already costs time, so both must hold.
    holds = TARGETS["R6"].holds(ceiling["share"]) and summary["overhead_holds"]
    return [result_row("R6", share, about, row="algorithm", note=note, holds=holds)]
