"""A replanning call of `full` over one of `erecap`, each on the engine that is fastest for it: the product row of R1.

transformers and llama.cpp run in this process, so the interpreter must have both. They have the same weights: the GGUF
file, and the model unpacked from it with packed weights for decoding. All sides read the same chat and take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.bench.llamacpp.ids import token_ids
from erecap.bench.llamacpp.one_engine import ENGINE, call_row, one_context
from erecap.bench.llamacpp.worker import Reader, decode
from erecap.bench.replan.calls import answer, floor_call, floor_message, in_turn, product_call
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import check_lengths, cut, next_turn, wander
from erecap.bench.replan.settings import ReplanBench
from erecap.bench.replan.summary import LATENCY_ROWS
from erecap.bench.results import result_row
from erecap.bench.sides import side_summary, totals
from erecap.config.modes import parse_mode
from erecap.context.tokenize import render_prompt
from erecap.decoding.answer import answer_ends
from erecap.engines.llamacpp.model import LlamaCppModel
from erecap.errors import RunError
from erecap.generation import JsonRow, Message
from erecap.session.session import ReplanSession

PART = "best-engine"
FULL = {"transformers": "full, transformers", "llamacpp": "full, llama.cpp"}
OURS = {
    "transformers": "erecap, transformers",
    "llamacpp": "erecap, llama.cpp",
    "drafted": "erecap drafted, llama.cpp",
}
FLOORS = {"transformers": "floor, transformers", "llamacpp": "floor, llama.cpp"}


@dataclass(frozen=True)
class BestEngineBench:
    """Settings of `erecap bench best-engine`."""

    lengths: tuple[int, ...] = tuple(LATENCY_ROWS)  # tokens of history
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    decode_weights: str = "int4"  # of the engine transformers
    seed: int = 0


def best_engine_bench(
    bench: BestEngineBench, model: Any, gguf: LlamaCppModel, tokenizer: Any, say: Callable[[str], None] = lambda _: None
) -> list[JsonRow]:
    """Time every side after every length of history, in turn, each warmed up.

    Args:
        model: what transformers runs, of the same weights as `gguf`.
        tokenizer: of both.

    Returns:
        One row a timed call: `length`, `mode` (its side), `repetition`, `prefill_ms`, `decode_ms`, `drafted` and
        `accepted` tokens.

    Raises:
        ConfigError: lengths that do not fit the window of one of the engines.
        RunError: the engines did not read the same, or llama.cpp failed.
    """

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    check_lengths(bench.lengths, bench.new_tokens, bench.plan_tokens, model)
    longest = wander(max(bench.lengths), count, turn_tokens=bench.new_tokens, seed=bench.seed)
    new, raw = next_turn(bench.new_tokens, count, seed=bench.seed), []
    readers = one_context(gguf, gguf.window), one_context(gguf, 2048)
    for length in bench.lengths:
        calls = _calls(bench, model, gguf, tokenizer, cut(longest, length, count), new, count, readers)
        say(f"history of {length} tokens: warming up")
        first = {name: call() for name, call in calls.items()}
        fresh = {name: row["new_tokens"] for name, row in first.items() if name in OURS.values()}
        if len(set(fresh.values())) > 1:
            raise RunError(f"the engines read different numbers of new tokens: {fresh}")
        for repetition, name, call in in_turn(calls, bench.repetitions):
            row = call()
            told = {key: row[key] for key in ("prefill_ms", "decode_ms", "drafted", "accepted")}
            raw.append({"length": length, "mode": name, "repetition": repetition, **told})
            if name == next(reversed(calls)):
                say(f"history of {length} tokens: {repetition + 1} of {bench.repetitions} repetitions")
    return raw


def _calls(
    bench: BestEngineBench,
    model: Any,
    gguf: LlamaCppModel,
    tokenizer: Any,
    history: list[Message],
    new: Message,
    count: Callable[[Sequence[Message]], int],
    readers: tuple[Reader, Reader],
) -> dict[str, Callable[[], JsonRow]]:
    """By side its call; sessions read the history here.

    Args:
        readers: llama.cpp with room for every history, and for the floor.
    """
    settings = ReplanBench(
        new_tokens=bench.new_tokens, plan_tokens=bench.plan_tokens, kv_tokens=bench.kv_tokens,
        decode_weights=bench.decode_weights, seed=bench.seed,
    )  # fmt: skip
    calls: dict[str, Callable[[], JsonRow]] = {}
    for mode, names in (("full", FULL), ("erecap", OURS)):
        torch_call = product_call(parse_mode(mode), settings, model, tokenizer, history, new)
        calls[names["transformers"]] = lambda call=torch_call: call_row(call())  # type: ignore[misc]
    read, fresh = token_ids(history, new, tokenizer)
    never, (whole, empty) = answer_ends(gguf, tokenizer), readers
    plan, alone = history[-1]["content"], floor_message(tokenizer, history, new, count)
    torch_floor = floor_call(settings, model, tokenizer, alone, True, plan)
    alone_ids = render_prompt([alone], tokenizer).input_ids

    def theirs(reader: Reader, ids: list[int]) -> JsonRow:
        reader.back_to(0)
        made: JsonRow = decode(reader, ids, [], bench.plan_tokens, never, 0)
        return made

    calls[FULL["llamacpp"]] = lambda: theirs(whole, [*read, *fresh])
    for name, draft in (("llamacpp", None), ("drafted", plan)):
        session = ReplanSession(
            gguf, tokenizer, engine=ENGINE, budget=bench.kv_tokens, draft=draft is not None, seed=bench.seed
        )
        session.read(history)
        calls[OURS[name]] = lambda session=session, draft=draft: call_row(  # type: ignore[misc]
            answer(session.fork(), [*history, new], bench.plan_tokens, draft)
        )
    calls[FLOORS["transformers"]] = lambda: call_row(torch_floor())
    calls[FLOORS["llamacpp"]] = lambda: theirs(empty, alone_ids)
    return calls


def best_engine_summary(raw: Sequence[JsonRow]) -> list[JsonRow]:
    """Per length and side: medians, as multiples of those of the lower floor and of `erecap` on its best engine."""
    found = []
    for length in dict.fromkeys(row["length"] for row in raw):
        own = [row for row in raw if row["length"] == length]
        sides = side_summary(
            own, medians=("prefill_ms", "decode_ms"), same=("drafted", "accepted"),
            ours=fastest(own, OURS), floor=fastest(own, FLOORS),
        )  # fmt: skip
        found += [{"length": length, **side} for side in sides]
    return found


def fastest(raw: Sequence[JsonRow], sides: dict[str, str]) -> str:
    """Name of the side with the least median."""
    return min(sides.values(), key=lambda mode: statistics.median(totals(raw, mode)))


def best_engine_rows(raw: Sequence[JsonRow], about: JsonRow, gguf: str) -> list[JsonRow]:
    """R1a and R1b, product, as far as their lengths were measured.

    Args:
        gguf: the weights, in words.
    """
    rows = []
    for length, name in LATENCY_ROWS.items():
        own = [row for row in raw if row["length"] == length]
        if not own:
            continue
        full, ours, floor = fastest(own, FULL), fastest(own, OURS), fastest(own, FLOORS)
        at = {mode: statistics.median(totals(own, mode)) for mode in dict.fromkeys(row["mode"] for row in own)}
        note = (
            f"{gguf}; fastest as `{full}` and `{ours}`; seconds: "
            + ", ".join(f"{mode} {ms / 1e3:.2f}" for mode, ms in at.items())
            + f"; at the floor it would be {at[full] / at[floor]:.1f}"
        )
        rows.append(result_row(name, ratio(totals(own, full), totals(own, ours)), about, row="product", note=note))
    return rows
