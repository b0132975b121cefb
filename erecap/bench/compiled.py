"""Plain forward passes of models with torch.compile and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from erecap.bench.replan.calls import steady, synchronise
from erecap.bench.replan.ceilings import ratio
from erecap.generation import JsonRow
from erecap.layers.slices.compiling import INDUCTOR, compiled


def compiled_bench(
    models: Mapping[str, Any],
    ids: Sequence[int],
    say: Callable[[str], None] = lambda text: None,
    *,
    repetitions: int,
    backend: str = INDUCTOR,
) -> list[JsonRow]:
    """Plain forward passes over `ids`, without a session: of each model as it is, and compiled.

    Returns:
        For each model `eager_ms` and `compiled_ms` (medians), `speed_up`, and `compile_s`: the seconds of the first
        call, which compiles.

    Raises:
        ModelError: torch cannot compile here.
    """
    rows = []
    for name, model in models.items():
        inputs = torch.tensor([list(ids)], device=model.device)
        times: dict[bool, list[float]] = {False: [], True: []}
        with compiled(model, backend) as switched, torch.no_grad(), steady() as collect:
            first = {}
            for on in (True, False):
                with switched(on):
                    first[on] = _seconds(model, inputs)
            for repetition in range(repetitions):
                for on in (True, False) if repetition % 2 else (False, True):
                    collect()
                    with switched(on):
                        times[on].append(1e3 * _seconds(model, inputs))
                say(f"{name}: round {repetition + 1} of {repetitions}")
        rows.append(
            {
                "model": name,
                "eager_ms": statistics.median(times[False]),
                "compiled_ms": statistics.median(times[True]),
                "speed_up": asdict(ratio(times[False], times[True])),
                "compile_s": first[True],
            }
        )
    return rows


def _seconds(model: Any, inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    model(input_ids=inputs, use_cache=False, logits_to_keep=1)
    synchronise(model)
    return time.perf_counter() - started
