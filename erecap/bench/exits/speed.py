"""Decoding with early exit beside plain decoding: time, tokens that agree, and where tokens leave."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.bench.exits.settings import ExitsBench
from erecap.bench.replan.calls import steady, synchronise
from erecap.config.exits import Exit
from erecap.decoding.exits.drafting import ExitDraft
from erecap.decoding.exits.opening import open_exits
from erecap.decoding.exits.states import ExitText
from erecap.decoding.loop import Decoded, decode
from erecap.engines.transformers import TransformersEngine
from erecap.generation import JsonRow

ROUNDS = 5  # timed answers of each way, in turn


def speed_rows(
    bench: ExitsBench,
    model: Any,
    texts: Sequence[ExitText],
    settings: Exit,
    ends: Sequence[int],
    say: Callable[[str], None] = lambda line: None,
) -> list[JsonRow]:
    """One row an answer and way: the last answer of each text, decoded plainly and with early exit, without look-up.

    Raises:
        ConfigError, ModelError, ValueError: as `open_exits`.
    """
    state = open_exits(settings, model)
    own = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if own else time.perf_counter
    rows: list[JsonRow] = []
    for text in texts[: bench.timed]:
        prompt = text.ids[: _last_answer(text) + 1]
        base = TransformersEngine(model)
        logits = base.read(prompt)
        wanted: list[int] = []
        with steady() as collect:
            for round_ in range(ROUNDS + 1):
                for way in ("plain", "exit"):
                    collect()
                    engine = base.fork()
                    exits = ExitDraft(state, ends, prompt) if way == "exit" else None
                    with engine.attached():
                        started = clock()
                        out = decode(
                            engine,
                            logits,
                            max_new_tokens=bench.new_tokens,
                            ended=lambda ids: ids[-1] in ends,
                            exits=exits,
                        )
                        synchronise(model)
                        spent = 1e3 * (clock() - started)
                    wanted = out.ids if way == "plain" else wanted
                    if round_:  # the first warms up
                        rows.append(
                            {"text": text.name, "round": round_, "way": way, "ms": spent, **_counted(out, wanted)}
                        )
        say(f"{text.name}: decoded {len(wanted)} tokens in both ways")
    return rows


def speed_summary(rows: Sequence[JsonRow]) -> JsonRow:
    """Speed-up over plain decoding, tokens that agree, and the histogram of exits."""
    sums: dict[str, list[float]] = {}
    for way in ("plain", "exit"):
        own = [row for row in rows if row["way"] == way and row["tokens"] > 1]
        # The first token comes with the prompt.
        sums[way] = [row["ms"] / (row["tokens"] - 1) for row in own]
    early = [row for row in rows if row["way"] == "exit"]
    layers = Counter(layer for row in early for layer in row["exit_layers"])
    drafted = sum(row["drafted"] for row in early)
    return {
        "ms_per_token": {way: statistics.median(values) if values else None for way, values in sums.items()},
        "speed_up": statistics.median(a / b for a, b in zip(sums["plain"], sums["exit"], strict=False))
        if sums["plain"] and sums["exit"]
        else None,
        "same_tokens": sum(row["same"] for row in early) / max(1, sum(row["tokens"] for row in early)),
        "same_texts": sum(row["whole"] for row in early) / max(1, len(early)),
        "accepted": sum(row["accepted"] for row in early) / drafted if drafted else None,
        "left_early": sum(layers.values()) / max(1, sum(row["tokens"] for row in early)),
        "exit_layers": {str(layer): layers[layer] for layer in sorted(layers)},
        "mean_layer": statistics.mean(layers.elements()) if layers else None,
        "n": len(early),
        "rounds": ROUNDS,
    }


def _counted(out: Decoded, wanted: Sequence[int]) -> JsonRow:
    same = sum(a == b for a, b in zip(out.ids, wanted, strict=False))
    return {
        "tokens": len(out.ids),
        "passes": out.passes,
        "drafted": out.drafted,
        "accepted": out.accepted,
        "exit_layers": out.exit_layers,
        "differing": out.differing,
        "same": same,
        "whole": out.ids == list(wanted),
    }


def _last_answer(text: ExitText) -> int:
    """Index of the last token before the last answer that is decoded."""
    row = len(text.rows) - 1
    while row and text.rows[row - 1] == text.rows[row] - 1:
        row -= 1
    return text.rows[row]
