"""Times of layers, of the head and of rows of the head, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.bench.exits.settings import ExitsBench
from erecap.bench.replan.calls import steady, synchronise
from erecap.decoding.best import MOST
from erecap.decoding.exits.partial import Heads, read_layers
from erecap.decoding.short import short_reads
from erecap.engines.transformers import TransformersEngine
from erecap.errors import RunError
from erecap.generation import JsonRow

SLICE = 32  # rows of the head that a grammar or a draft asks for


def measure_times(bench: ExitsBench, model: Any, ids: Sequence[int], small: int) -> JsonRow:
    """Medians in milliseconds over interleaved repetitions, behind `bench.kv` stored tokens.

    Args:
        model: one that a `FusedDecoder` reads for.
        ids: a text, repeated until it has as many tokens.
        small: tokens of the small vocabulary.

    Returns:
        `layers`, `layers_chunk` (all layers for one token, and for a chunk of drafts and one more), `head`,
        `head_chunk`, `small` and `slice` (rows of the head, the last norm included), `token` and `chosen` (one token
        decoded to the logits of all, and chosen among a few), `repetitions`, `clock`.
    """
    engine = TransformersEngine(model)
    decoder = short_reads(model).same
    assert decoder is not None, "checked by the bench"
    stored = (list(ids) * (bench.kv // len(ids) + 1))[: min(bench.kv, engine.window - bench.drafts - 2)]
    engine.read(stored)
    heads = Heads(decoder, model)
    vocabulary = model.lm_head.weight.shape[0]
    rows = {
        "small": heads.rows(torch.arange(min(small, vocabulary), device=model.device))[0],
        "slice": heads.rows(torch.arange(min(SLICE, vocabulary), device=model.device))[0],
    }

    def layers(count: int) -> torch.Tensor:
        hidden = read_layers(decoder, engine.cache, stored[:count], engine.next_position)
        engine.rollback(len(stored))
        assert hidden is not None
        return hidden

    count = max(1, min(SLICE, int(MOST * vocabulary)))
    few = [number * vocabulary // count for number in range(count)]

    def read_one(read: Callable[[], Any]) -> None:
        if read() is None:
            raise RunError("one token was not chosen among a few, though the layers are read one by one")
        engine.rollback(len(stored))

    one, chunk = layers(1), layers(bench.drafts + 1)
    parts: dict[str, Callable[[], Any]] = {
        "layers": lambda: layers(1),
        "layers_chunk": lambda: layers(bench.drafts + 1),
        "head": lambda: heads.whole(heads.normed(one)),
        "head_chunk": lambda: heads.whole(heads.normed(chunk)),
        "small": lambda: heads.normed(one) @ rows["small"].t(),
        "slice": lambda: heads.normed(one) @ rows["slice"].t(),
        "token": lambda: read_one(lambda: engine.verify(stored[:1])),
        "chosen": lambda: read_one(lambda: engine.choose(stored[:1], [few])),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    # On one thread its own time, which other programs on the machine do not lengthen.
    own = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if own else time.perf_counter
    with torch.no_grad(), engine.attached(), steady() as collect:
        for round_ in range(bench.repetitions + 2):
            collect()
            for name, part in parts.items():
                started = clock()
                part()
                synchronise(model)
                if round_ > 1:  # the first two warm up
                    times[name].append(1e3 * (clock() - started))
    engine.reset()
    medians: JsonRow = {name: statistics.median(values) for name, values in times.items()}
    return medians | {"repetitions": bench.repetitions, "clock": "thread" if own else "wall"}
