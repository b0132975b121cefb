"""The time of one replanning call after histories of several lengths, mode by mode, beside its floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from erecap.bench.out_of_memory import MemoryGuard
from erecap.bench.replan.calls import Call, algorithm_call, floor_call, floor_message, in_turn, product_call, stock_call
from erecap.bench.replan.ceilings import attention_share
from erecap.bench.replan.history import Count, check_lengths, cut, next_turn, wander
from erecap.bench.replan.packed_weights import QUALITY_TOKENS, weight_loss
from erecap.bench.replan.settings import FLOOR, ROW_NAMES, STOCK, ReplanBench
from erecap.config.modes import Mode, parse_mode
from erecap.context.tokenize import render_prompt
from erecap.decoding.linear import WEIGHTS
from erecap.errors import ConfigError
from erecap.generation import Generation, JsonRow, Message
from erecap.language_models.opened import shape_of

Peak = Callable[[str, list[Message], Message], float | None]
SHARE = (FLOOR, "attention")  # a call of ours, not of a mode


def replan_bench(
    bench: ReplanBench,
    model: Any,
    tokenizer: Any,
    say: Callable[[str], None] = lambda text: None,
    peak: Peak | None = None,
) -> JsonRow:
    """Measure everything: `raw` rows, what was `skipped`, `attention_shares`, `peaks`, `quality`, `shape` of the model.

    Args:
        peak: measures the peak memory of a mode's call after a history, where `bench.memory` asks for it.

    Raises:
        ConfigError: as `measure` does.
    """
    guard = MemoryGuard(say)
    found: JsonRow = {"raw": measure(bench, model, tokenizer, say, guard), "shape": vars(shape_of(model))}
    found["attention_shares"] = {}
    if "algorithm" in bench.rows and any(mode.startswith("prune") for mode in bench.modes):
        count = _counter(tokenizer)
        longest = _longest(bench, count)
        for length in bench.lengths:
            say(f"history of {length} tokens: where the time of the full prefill goes")
            ids = render_prompt(cut(longest, length, count), tokenizer).input_ids
            share = partial(attention_share, model, ids)
            found["attention_shares"][str(length)] = guard.tried(SHARE, length, "the timed full prefill", share)
    found["skipped"] = [
        {"row": key[0], "mode": key[1], "length": length} for key, length in guard.skipped.items() if key != SHARE
    ]
    if bench.memory and peak is not None:
        found["peaks"] = peaks(bench, tokenizer, found["raw"], say, peak)
    if "product" in bench.rows:
        say("what the product's decode weights cost in accuracy")
        tokens = min(QUALITY_TOKENS, max(bench.lengths))
        found["quality"] = weight_loss(model, tokenizer, bench.decode_weights, tokens=tokens, seed=bench.seed)
    return found


def measure(
    bench: ReplanBench,
    model: Any,
    tokenizer: Any,
    say: Callable[[str], None] = lambda text: None,
    guard: MemoryGuard | None = None,
) -> list[JsonRow]:
    """Raw rows, one per timed call; modes are interleaved, and every call of every mode was warmed up once.

    A mode that runs out of memory has no rows at that length and at longer ones; `guard` knows which.

    Sessions have read the history before; each repetition goes on from a copy of that state, so that all of them do
    the same work. The floor is the new turn alone, on an empty cache, with the same number of decode steps.

    Raises:
        ConfigError: an unknown mode or row, one without a model; lengths that do not fit the model's window.
    """
    modes = _checked(bench, model)
    count = _counter(tokenizer)
    longest = _longest(bench, count)
    new = next_turn(bench.new_tokens, count, seed=bench.seed)
    guard = guard or MemoryGuard(say)
    raw: list[JsonRow] = []
    for length in bench.lengths:
        makers = _makers(bench, modes, model, tokenizer, cut(longest, length, count), new, count)
        if STOCK in bench.rows and length not in bench.stock_lengths:
            makers.pop((STOCK, STOCK), None)
        say(f"history of {length} tokens: warming up")
        calls: dict[tuple[str, str], Call] = {}
        for (row, mode), make in makers.items():
            warm = guard.tried((row, mode), length, mode, partial(_warmed_up, make))
            if warm is not None:
                calls[row, mode] = warm
        call: Call | None = None
        for repetition, (row, mode), call in in_turn(calls, bench.repetitions):
            head = {"row": row, "length": length, "mode": mode, "repetition": repetition}
            answer = guard.tried((row, mode), length, mode, call)
            if answer is not None:
                raw.append({**head, **_raw(answer, layers=row == "algorithm" and not repetition)})
            if (row, mode) == next(reversed(calls)):
                say(f"history of {length} tokens: {repetition + 1} of {bench.repetitions} repetitions")
        del calls, call
    # Fewer repetitions than the others are no measurement.
    return [row for row in raw if guard.skipped.get((row["row"], row["mode"])) != row["length"]]


def _warmed_up(make: Callable[[], Call]) -> Call:
    call = make()
    call()
    return call


def peaks(
    bench: ReplanBench, tokenizer: Any, raw: Sequence[JsonRow], say: Callable[[str], None], peak: Peak
) -> list[JsonRow]:
    """Rows with `length`, `mode` and `bytes`: the peak memory of each mode that was timed in the algorithm row."""
    count = _counter(tokenizer)
    longest, new = _longest(bench, count), next_turn(bench.new_tokens, count, seed=bench.seed)
    timed = dict.fromkeys((r["length"], r["mode"]) for r in raw if r["row"] == "algorithm" and r["mode"] != FLOOR)
    rows = []
    for length, mode in timed:
        say(f"history of {length} tokens: peak memory of {mode}")
        rows.append({"length": length, "mode": mode, "bytes": peak(mode, cut(longest, length, count), new)})
    return rows


def _makers(
    bench: ReplanBench,
    modes: Sequence[Mode],
    model: Any,
    tokenizer: Any,
    history: list[Message],
    new: Message,
    count: Count,
) -> dict[tuple[str, str], Callable[[], Call]]:
    """By row and mode what makes its call; sessions read the history when they are made."""
    plan = history[-1]["content"]
    alone = floor_message(tokenizer, history, new, count)
    makers: dict[tuple[str, str], Callable[[], Call]] = {}
    for row, make in (("algorithm", algorithm_call), ("product", product_call)):
        if row in bench.rows:
            for mode in modes:
                if row == "algorithm" or mode.prune is None:  # pruning beside reuse says all in the plain row
                    makers[row, str(mode)] = partial(make, mode, bench, model, tokenizer, history, new)
            makers[row, FLOOR] = partial(floor_call, bench, model, tokenizer, alone, row == "product", plan)
    if STOCK in bench.rows:
        makers[STOCK, STOCK] = partial(stock_call, bench, model, tokenizer, history, new)
    return makers


def _counter(tokenizer: Any) -> Count:
    return lambda messages: len(render_prompt(messages, tokenizer).input_ids)


def _longest(bench: ReplanBench, count: Count) -> list[Message]:
    return wander(max(bench.lengths), count, turn_tokens=bench.new_tokens, seed=bench.seed)


def _checked(bench: ReplanBench, model: Any) -> list[Mode]:
    try:
        modes = [parse_mode(name) for name in bench.modes]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    elsewhere = [str(mode) for mode in modes if not mode.opens_model]
    if elsewhere:
        raise ConfigError(f"mode {elsewhere[0]} calls no model here, so there is nothing to measure")
    text = [str(mode) for mode in modes if mode.text is not None]
    if text:
        raise ConfigError(f"mode {text[0]} shortens the chat itself, which these calls do not do; leave it out")
    unknown = [row for row in bench.rows if row not in ROW_NAMES]
    if unknown or not bench.rows:
        raise ConfigError(f"unknown row {', '.join(unknown) or 'none'}; allowed: {', '.join(ROW_NAMES)}")
    if bench.decode_weights not in WEIGHTS:
        raise ConfigError(f"unknown decode weights {bench.decode_weights!r}; allowed: {', '.join(WEIGHTS)}")
    check_lengths(bench.lengths, bench.new_tokens, bench.plan_tokens, model)
    return modes


def _raw(generation: Generation, layers: bool) -> JsonRow:
    usage, timing = generation.usage, generation.timing
    told = timing.prefill_ms > 0  # the stock `generate` does not tell its phases apart
    row: JsonRow = {
        "total_ms": timing.total_ms,
        "prefill_ms": timing.prefill_ms if told else None,
        "decode_ms": timing.decode_ms if told else None,
        "prune_ms": timing.prune_ms,
        "prompt_tokens": usage.prompt_tokens,
        "new_tokens": usage.new_tokens,
        "plan_tokens": usage.completion_tokens,
        # The first token comes from the prefill; every accepted draft saves a pass.
        "passes": usage.completion_tokens - 1 - usage.accepted_tokens if told else None,
        "kept_tokens": usage.kept_tokens,
        "kv_bytes": usage.kv_bytes,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
    }
    # The same in every repetition, and long.
    return {**row, "kept_per_layer": list(usage.kept_per_layer)} if layers else row
