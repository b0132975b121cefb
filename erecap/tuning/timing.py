"""Measured times of a few stage sets beside the unmodified model, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from erecap.bench.replan.calls import steady, synchronise
from erecap.bench.replan.ceilings import ratio
from erecap.generation import JsonRow
from erecap.models.cache_argument import CACHE
from erecap.tokens import PruneConfig, prune
from erecap.tuning.candidates import Stages
from erecap.tuning.samples import Sample


def measure(
    model: Any,
    sample: Sample,
    sets: Sequence[Stages],
    config: Callable[[Stages], PruneConfig],
    repetitions: int,
    say: Callable[[str], None] = lambda text: None,
) -> JsonRow:
    """Time the prefill of one prompt: the unmodified model, then each of `sets`, over and over.

    Every side is warmed up once, and garbage is collected between the timed reads only.

    Returns:
        `tokens`, `repetitions`, `full_ms` (median) and `sets`: for each its `stages`, `ms` (median), `speed_up` (median
        over median), `low` and `high` (of the ratios within one repetition).
    """
    ids = torch.tensor([list(sample.prompt)], device=model.device)

    def full() -> None:
        with torch.no_grad():
            model(input_ids=ids, **{CACHE: DynamicCache()}, use_cache=True, logits_to_keep=1)
        synchronise(model)

    def pruned(stages: Stages) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad(), prune(model, config(stages), protect=list(sample.protect)) as cache:
                model(input_ids=ids, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
                synchronise(model)

        return call

    calls = [full, *(pruned(stages) for stages in sets)]
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    with steady() as collect:
        for repetition in range(repetitions):
            for place, call in enumerate(calls):
                collect()
                started = time.perf_counter()
                call()
                times[place].append(1e3 * (time.perf_counter() - started))
            say(f"timed {repetition + 1} of {repetitions} repetitions")
    rows = []
    for stages, own in zip(sets, times[1:], strict=True):
        figure = ratio(times[0], own)
        rows.append(
            {
                "stages": list(stages),
                "ms": statistics.median(own),
                "speed_up": figure.value,
                "low": figure.low,
                "high": figure.high,
            }
        )
    return {
        "tokens": len(sample.prompt),
        "repetitions": repetitions,
        "full_ms": statistics.median(times[0]),
        "sets": rows,
    }
