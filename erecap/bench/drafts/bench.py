"""`erecap bench drafts`: every way to draft on the same answers, summarised."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.bench.drafted_replans import PART
from erecap.bench.drafts.calls import Ways
from erecap.bench.drafts.costs import pass_costs
from erecap.bench.drafts.scenes import new_plans, prompt_sets, prompts, replans, that_fit
from erecap.bench.drafts.settings import OURS, PLAIN, DraftsBench
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import check_lengths
from erecap.bench.results import Figure, result_row
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message
from erecap.tokens.cache.ropes import window_of_model

RIVALS = {"R7": PLAIN, "R7-lookup": "prompt-lookup", "R7-suffix": "suffix"}  # what ours is compared with, by row
REPEATING = "replans that repeat"  # of the replans, those of which at least `PART` repeats the last plan


def drafts_bench(
    bench: DraftsBench, model: Any, tokenizer: Any, about: JsonRow, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """Measure one part, as `erecap.bench.suite.play` does.

    Raises:
        ConfigError: settings that cannot be measured, or prompts that cannot be read.
    """
    bench.check()
    if bench.processor_time and (model.device.type != "cpu" or torch.get_num_threads() != 1):
        got = f"{torch.get_num_threads()} threads on {model.device}"
        raise ConfigError(f"--processor-time tells how long decoding takes with 1 thread on cpu, got {got}")
    sets = {} if bench.prompts is None else prompt_sets(bench.prompts, bench.prompt_count)

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    sets, left_out = that_fit(sets, count, bench, window_of_model(model, reused=True))
    if bench.replans:
        check_lengths((bench.history,), 100, bench.tokens, model)
    costs = pass_costs(bench, model, tokenizer, say)
    ways, raw = Ways(bench, model, tokenizer), list[JsonRow]()
    if bench.replans:
        raw += replans(bench, ways, tokenizer, count, say)
        raw += new_plans(bench, ways, count, say)
    raw += prompts(bench, sets, ways, say)
    summary = drafts_summary(raw, bench.processor_time)
    return {
        "part": "drafts",
        "settings": bench.as_row(),
        **about,
        "summary": {"ways": summary, "costs": costs, "left_out": left_out},
        "raw": raw,
        "rows": drafts_rows(raw, about, bench.processor_time),
        "faults": [],
    }


def drafts_summary(raw: Sequence[JsonRow], processor_time: bool) -> list[JsonRow]:
    """For each scene, weights and way: tokens a pass, accepted tokens, milliseconds a token, and agreement."""
    clock = _clock(processor_time)
    summary: list[JsonRow] = []
    for scene, own in _scenes(raw).items():
        for kind in dict.fromkeys(row["weights"] for row in own):
            plain = _of(own, kind, PLAIN)
            for way in dict.fromkeys(row["way"] for row in own):
                rows = _of(own, kind, way)
                sums = {key: sum(row[key] for row in rows) for key in ("tokens", "passes", "drafted_tokens")}
                accepted = sum(row["accepted_tokens"] for row in rows)
                times = _sums(rows, clock)
                tokens = sums["tokens"] / len(times)  # of one repetition
                summary.append(
                    {
                        "scene": scene,
                        "weights": kind,
                        "way": way,
                        "answers": len({_place(row) for row in rows}),
                        "n": len(times),
                        "tokens": sums["tokens"],
                        "tokens_a_pass": sums["tokens"] / max(1, sums["passes"]),
                        "accepted_of_drafted": accepted / sums["drafted_tokens"] if sums["drafted_tokens"] else None,
                        "accepted_share": accepted / max(1, sums["tokens"]),
                        "ms_a_token": statistics.median(times) / tokens if tokens else None,
                        "tokens_a_second": 1e3 * tokens / statistics.median(times) if min(times) else None,
                        "speed_up": vars(_ratio(plain, rows, clock)),
                        "agreement": statistics.mean(row["agreement"] for row in rows),
                        "same_text": sum(row["same_text"] for row in rows) / len(rows),
                    }
                )
    return summary


def drafts_rows(raw: Sequence[JsonRow], about: JsonRow, processor_time: bool) -> list[JsonRow]:
    """The rows R7, R7-lookup and R7-suffix, of the replans that repeat part of the last plan.

    The model's own weights are the row `algorithm`, others `product`. Ways that were not measured have no row.
    """
    clock, found = _clock(processor_time), list[JsonRow]()
    own = _scenes(raw).get(REPEATING, [])
    every = [row for row in raw if row["scene"] == "replans"]
    for kind in dict.fromkeys(row["weights"] for row in own):
        ours = _of(own, kind, OURS)
        for name, rival in RIVALS.items():
            theirs = _of(own, kind, rival)
            if not ours or not theirs:
                continue
            points = {row["point"] for row in every}
            note = (
                f"{kind} weights; {len({row['point'] for row in own})} of {len(points)} replans repeat "
                f"{100 * statistics.mean(row['repeats'] for row in ours):.0f} % of the plan before; tokens a pass "
                f"{_a_pass(ours):.2f}, {rival} {_a_pass(theirs):.2f}; over all replans "
                f"{_ratio(_of(every, kind, rival), _of(every, kind, OURS), clock).value:.2f}"
                + ("; processor time of one thread" if processor_time else "")
                + ("" if all(row["same_text"] for row in ours) else "; not every drafted plan is the plain one")
            )
            row = "algorithm" if kind == "same" else "product"
            found.append(result_row(name, _ratio(theirs, ours, clock), about, row=row, note=note))
    return found


def _scenes(raw: Sequence[JsonRow]) -> dict[str, list[JsonRow]]:
    """Rows by scene; replans are divided into those that repeat part of the last plan, and others."""
    found: dict[str, list[JsonRow]] = {}
    for row in raw:
        scene = row["scene"]
        if scene == "replans":
            scene = REPEATING if row["repeats"] >= PART else "other replans"
        found.setdefault(scene, []).append(row)
    return found


def _of(rows: Sequence[JsonRow], kind: str, way: str) -> list[JsonRow]:
    return [row for row in rows if row["weights"] == kind and row["way"] == way]


def _clock(processor_time: bool) -> str:
    return "processor_ms" if processor_time else "decode_ms"


def _place(row: JsonRow) -> tuple[int, int]:
    return row["point"], row.get("turn", 0)


def _sums(rows: Sequence[JsonRow], clock: str) -> list[float]:
    """Milliseconds of all answers, a sum a repetition."""
    numbers = sorted({row["repetition"] for row in rows})
    return [sum(row[clock] for row in rows if row["repetition"] == number) for number in numbers]


def _ratio(over: Sequence[JsonRow], under: Sequence[JsonRow], clock: str) -> Figure:
    """Ratio of the times of two ways in the same repetitions; 1 where nothing was decoded."""
    above, below = _sums(over, clock), _sums(under, clock)
    if not min(above) or not min(below):
        return Figure(1.0, 1.0, 1.0, len(below))
    return ratio(above, below)


def _a_pass(rows: Sequence[JsonRow]) -> float:
    return sum(row["tokens"] for row in rows) / max(1, sum(row["passes"] for row in rows))
