"""Time of a pass by the number of its tokens: what verifying a draft costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from erecap.bench.drafts.settings import DraftsBench
from erecap.bench.replan.calls import steady
from erecap.decoding.drafts.costs import Passes, reference_cost
from erecap.engines.protocol import EngineSettings
from erecap.engines.transformers import TransformersEngine
from erecap.generation import JsonRow

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
STORED = 1000


def pass_costs(bench: DraftsBench, model: Any, tokenizer: Any, say: Callable[[str], None]) -> list[JsonRow]:
    """For each weights and size of a pass: median milliseconds, over a pass of one token, and the reference cost."""
    text = "go to the fridge 1\nopen fridge 1\ntake a mug 2 from the shelf 4\n" * 200
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    now = time.process_time if bench.processor_time else time.perf_counter
    rows: list[JsonRow] = []
    for kind in bench.weights:
        engine = TransformersEngine(model, EngineSettings(decode_weights=kind))  # type: ignore[arg-type]
        stored = min(STORED, engine.window // 2, len(ids))
        engine.read(ids[:stored])
        times: dict[int, list[float]] = {size: [] for size in SIZES}
        with steady(), engine.attached():
            for round_number in range(bench.repetitions + 1):  # the first one warms up
                for size in SIZES:
                    started = now()
                    engine.verify(ids[:size])
                    elapsed = 1e3 * (now() - started)
                    engine.rollback(stored)
                    if round_number:
                        times[size].append(elapsed)
        on_cpu: Passes = "own" if kind == "same" else "packed"
        reference = reference_cost(on_cpu if model.device.type == "cpu" else "accelerator")
        one = statistics.median(times[1])
        rows += [
            {
                "weights": kind,
                "pass_tokens": size,
                "ms": statistics.median(found),
                "over_one": statistics.median(found) / one if one else None,
                "reference": reference(size, stored),
            }
            for size, found in times.items()
        ]
        say(f"passes with {kind} weights: timed")
    return rows
