"""A replanning call of a session on llama.cpp against llama.cpp with its prompt cache: one library, one GGUF file.

Both sides run in this process, so the interpreter must have `llama_cpp`. They read the same token ids, with the same
threads and precision of keys and values, and take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from erecap.bench.llamacpp.ids import token_ids
from erecap.bench.llamacpp.worker import Reader, decode
from erecap.bench.replan.calls import Call, answer, floor_message, steady
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import cut, next_turn, wander
from erecap.bench.results import result_row
from erecap.bench.sides import FLOOR, OURS, side_summary, totals
from erecap.context.tokenize import render_prompt
from erecap.decoding.answer import answer_ends
from erecap.engines.llamacpp.library import library
from erecap.engines.llamacpp.model import TYPES, LlamaCppModel
from erecap.errors import ConfigError, RunError
from erecap.generation import JsonRow, Message
from erecap.session.session import ReplanSession

ENGINE = "llamacpp"
DRAFTED = "erecap drafted"
PLAIN, LOOKUPS = "prompt cache", {"prompt cache, lookup-2": 2, "prompt cache, lookup-10": 10}
BATCH = 512
LENGTH = 7500  # tokens of history that the figures are defined for


@dataclass(frozen=True)
class OneEngineBench:
    """Settings of `erecap bench engines`."""

    length: int = LENGTH  # tokens of history
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    random: bool = False  # a model of 1B parameters with random weights, beside its floor alone: R10
    seed: int = 0


def one_engine_bench(
    bench: OneEngineBench, model: LlamaCppModel, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """Time every side, in turn.

    Returns:
        `raw` (one row a timed call), `read_ms` (what it took each side to read the history), and what was read.

    Raises:
        ConfigError: settings that cannot be measured.
        RunError: both sides did not read the same, or llama.cpp failed.
    """

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    # A history ends with a whole turn, and so may be longer than asked for by almost one.
    if bench.length + 3 * bench.new_tokens + bench.plan_tokens > model.window:
        raise ConfigError(f"a history of {bench.length} tokens does not fit the window of {model.window} with its turn")
    longest = wander(bench.length, count, turn_tokens=bench.new_tokens, seed=bench.seed)
    new, history = next_turn(bench.new_tokens, count, seed=bench.seed), cut(longest, bench.length, count)
    read, fresh = token_ids(history, new, tokenizer)
    never = answer_ends(model, tokenizer)
    took, empty = {}, one_context(model, 2048)
    if not bench.random:
        cached = one_context(model, model.window)
        say(f"llama.cpp reads a history of {len(read)} tokens into its prompt cache")
        took[PLAIN] = _milliseconds(lambda: cached.read(read))
    sessions = {}
    for name, drafts in ((OURS, False),) if bench.random else ((OURS, False), (DRAFTED, True)):
        sessions[name] = ReplanSession(
            model, tokenizer, engine=ENGINE, budget=bench.kv_tokens, draft=drafts, seed=bench.seed
        )
        say(f"{name}: a session reads it, with a budget of {bench.kv_tokens} tokens")
        took[name] = _milliseconds(lambda session=sessions[name]: session.read(history))  # type: ignore[misc]
    alone = render_prompt([floor_message(tokenizer, history, new, count)], tokenizer).input_ids
    plan = history[-1]["content"]

    def ours(name: str) -> Call:
        return lambda: answer(
            sessions[name].fork(), [*history, new], bench.plan_tokens, plan if name == DRAFTED else None
        )

    def theirs(reader: Any, before: list[int], ids: list[int], draft: int) -> JsonRow:
        reader.back_to(len(before))
        made: JsonRow = decode(reader, ids, before, bench.plan_tokens, never, draft)
        return made

    calls: dict[str, Callable[[], JsonRow]] = {}
    if not bench.random:
        calls[PLAIN] = lambda: theirs(cached, read, fresh, 0)
        for name, draft in LOOKUPS.items():
            calls[name] = lambda draft=draft: theirs(cached, read, fresh, draft)  # type: ignore[misc]
    for name in sessions:
        calls[name] = lambda name=name: call_row(ours(name)())  # type: ignore[misc]
    calls[FLOOR] = lambda: theirs(empty, [], alone, 0)
    first = {name: call() for name, call in calls.items()}  # the warm-up of all sides
    if first[OURS]["new_tokens"] != len(fresh):
        raise RunError(f"the session read {first[OURS]['new_tokens']} new tokens, llama.cpp {len(fresh)}")
    raw = []
    with steady() as collect:
        for repetition in range(bench.repetitions):
            for name, call in calls.items():
                collect()
                before = time.process_time()
                row = call()
                row["cpu_ms"] = 1e3 * (time.process_time() - before)  # of all threads: what a busy machine leaves alone
                kept = {key: row[key] for key in ("prefill_ms", "decode_ms", "cpu_ms", "drafted", "accepted")}
                raw.append({"mode": name, "repetition": repetition, **kept})
            say(f"{repetition + 1} of {bench.repetitions} repetitions")
    return {
        "raw": raw,
        "read_ms": took,
        "history_tokens": len(read),
        "new_tokens": len(fresh),
        "model": model.shape,
        "kv": model.options.kv,
    }


def one_context(model: LlamaCppModel, window: int) -> Reader:
    """llama.cpp as it is: a context of one sequence of up to `window` tokens. Raises RunError where it makes none."""
    api, options = library(), model.options
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = window, BATCH, BATCH
    params.n_threads = params.n_threads_batch = options.own_threads
    params.type_k = params.type_v = TYPES[options.kv][0]
    context = api.llama_init_from_model(model.handle, params)
    if not context:
        raise RunError(f"llama.cpp makes no context of {window} tokens")
    return Reader(SimpleNamespace(ctx=context, n_vocab=lambda: model.vocabulary), BATCH)


def call_row(generation: Any) -> JsonRow:
    """A session's answer as a row: milliseconds of both phases, drafted, accepted and new tokens, the text."""
    usage, timing = generation.usage, generation.timing
    return {
        "prefill_ms": timing.total_ms - timing.decode_ms,
        "decode_ms": timing.decode_ms,
        "drafted": usage.drafted_tokens,
        "accepted": usage.accepted_tokens,
        "new_tokens": usage.new_tokens,
        "text": generation.text,
    }


def _milliseconds(job: Callable[[], Any]) -> float:
    started = time.perf_counter()
    job()
    return 1e3 * (time.perf_counter() - started)


def summary_of(raw: Sequence[JsonRow]) -> list[JsonRow]:
    """Per side: medians, as multiples of the floor and of `erecap`."""
    return side_summary(raw, medians=("prefill_ms", "decode_ms", "cpu_ms"), same=("drafted", "accepted"))


def engine_rows(found: JsonRow, about: JsonRow, bench: OneEngineBench) -> list[JsonRow]:
    """R8-plain and R8-drafted, or R10, if they were measured at the length that they are defined for."""
    if bench.length != LENGTH:
        return []
    raw, at = found["raw"], {entry["mode"]: entry for entry in summary_of(found["raw"])}
    about_it = f"{found['model']}, {found['kv']} keys and values; {found['history_tokens']:,} tokens of history"
    if bench.random:
        floor, own = at[FLOOR], at[OURS]
        note = (
            f"{about_it}, {bench.kv_tokens:,} stored; floor {floor['total_ms']:.0f} ms, `erecap` {own['total_ms']:.0f} "
            f"ms; in processor time {own['cpu_ms'] / floor['cpu_ms']:.2f}"
        )
        return [result_row("R10", ratio(totals(raw, OURS), totals(raw, FLOOR)), about, row="algorithm", note=note)]
    best = min((PLAIN, *LOOKUPS), key=lambda mode: float(at[mode]["total_ms"]))
    floors = f"over the floor: prompt cache {at[PLAIN]['over_floor']:.2f}, `erecap` {at[OURS]['over_floor']:.2f}"
    reads = ", ".join(f"{name} {ms / 1e3:.0f} s" for name, ms in found["read_ms"].items() if name != DRAFTED)
    return [
        result_row(
            "R8-plain", ratio(totals(raw, PLAIN), totals(raw, OURS)), about, row="algorithm",
            note=f"{about_it}; {floors}; in processor time {at[PLAIN]['cpu_ms'] / at[OURS]['cpu_ms']:.2f}; reading the "
            f"history: {reads}",
        ),
        result_row(
            "R8-drafted", ratio(totals(raw, best), totals(raw, DRAFTED)), about, row="product",
            note=f"the prompt cache was fastest as `{best}`; accepted of drafted tokens: "
            f"{at[best]['accepted']} of {at[best]['drafted']} there, "
            f"{at[DRAFTED]['accepted']} of {at[DRAFTED]['drafted']} here",
        ),
    ]  # fmt: skip
