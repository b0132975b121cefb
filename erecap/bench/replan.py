"""The time of one replanning call after histories of several lengths, mode by mode, beside its floor."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.bench.history import next_turn, wander
from erecap.budget import Budget
from erecap.config.modes import Mode, parse_mode
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.language_model import HFLanguageModel
from erecap.protocols import Generation, JsonRow, Message
from erecap.session.session import ReplanSession
from erecap.tokens.schedule import PruneConfig

FLOOR = "floor"


@dataclass(frozen=True)
class ReplanBench:
    """What is measured."""

    lengths: tuple[int, ...] = (1000, 2000, 4000, 7500)  # tokens of history
    modes: tuple[str, ...] = ("full", "reuse", "erecap", "prune[recency]")
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    keep: float = 0.7
    draft: bool = False  # plain decoding on all sides; True drafts from the previous plan in sessions
    seed: int = 0


def measure(
    bench: ReplanBench, model: Any, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> list[JsonRow]:
    """Raw rows, one per timed call; modes are interleaved, and every call of every mode was warmed up once.

    Sessions have read the history before; each repetition goes on from a copy of that state, so that all of them do
    the same work. The floor is the new turn alone, on an empty cache, with the same number of decode steps.

    Raises:
        ConfigError: an unknown mode, or one without a model; lengths that do not fit the model's window.
    """
    modes = _checked(bench, model)

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    longest = wander(max(bench.lengths), count, turn_tokens=bench.new_tokens, seed=bench.seed)
    new = next_turn(bench.new_tokens, count, seed=bench.seed)
    rows: list[JsonRow] = []
    for length in bench.lengths:
        history = _cut(longest, length, count)
        calls = {str(mode): _caller(mode, bench, model, tokenizer, history, new) for mode in modes}
        calls[FLOOR] = _floor(bench, model, tokenizer, new)
        say(f"history of {length} tokens: warming up")
        for call in calls.values():
            call()
        for repetition in range(bench.repetitions):
            for name, call in calls.items():
                gc.collect()
                generation = call()
                rows.append(_row(length, name, repetition, generation))
            say(f"history of {length} tokens: {repetition + 1} of {bench.repetitions} repetitions")
        del calls
    return rows


def summarise(rows: Sequence[JsonRow]) -> list[JsonRow]:
    """Per length and mode: median, min and max of the total, and its multiple of the floor."""
    summary = []
    for length in sorted({row["length"] for row in rows}):
        of_length = [row for row in rows if row["length"] == length]
        floor = statistics.median(row["total_ms"] for row in of_length if row["mode"] == FLOOR)
        for mode in dict.fromkeys(row["mode"] for row in of_length):
            own = [row for row in of_length if row["mode"] == mode]
            total = [row["total_ms"] for row in own]
            summary.append(
                {
                    "length": length,
                    "mode": mode,
                    "n": len(own),
                    "total_ms": statistics.median(total),
                    "min_ms": min(total),
                    "max_ms": max(total),
                    "prefill_ms": statistics.median(row["prefill_ms"] for row in own),
                    "decode_ms": statistics.median(row["decode_ms"] for row in own),
                    "over_floor": statistics.median(total) / floor,
                    "prompt_tokens": own[0]["prompt_tokens"],
                    "new_tokens": own[0]["new_tokens"],
                    "kv_bytes": own[0]["kv_bytes"],
                }
            )
    return summary


def _checked(bench: ReplanBench, model: Any) -> list[Mode]:
    try:
        modes = [parse_mode(name) for name in bench.modes]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if any(not mode.needs_model for mode in modes):
        raise ConfigError("the expert calls no model, so there is nothing to measure")
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    most = max(bench.lengths) + 3 * bench.new_tokens + bench.plan_tokens
    if most > window:
        raise ConfigError(f"a history of {max(bench.lengths)} tokens does not fit the window of {window} with its turn")
    return modes


def _cut(messages: Sequence[Message], tokens: int, count: Callable[[Sequence[Message]], int]) -> list[Message]:
    """The shortest beginning of at least `tokens` tokens that ends with a plan."""
    for end in range(3, len(messages) + 1, 2):
        if count(messages[:end]) >= tokens:
            return list(messages[:end])
    return list(messages)


def _caller(
    mode: Mode, bench: ReplanBench, model: Any, tokenizer: Any, history: list[Message], new: Message
) -> Callable[[], Generation]:
    messages = [*history, new]
    count = bench.plan_tokens
    if not mode.session:
        prune = PruneConfig(scorer=mode.scorer, keep=bench.keep) if mode.scorer else None
        language_model = HFLanguageModel(model, tokenizer, prune=prune)
        return lambda: language_model.generate(messages, max_new_tokens=count, min_new_tokens=count)
    session = ReplanSession(
        model,
        tokenizer,
        budget=None if mode.kind == "reuse" else Budget(kv_tokens=bench.kv_tokens),
        evict_by="recency" if mode.kind in ("reuse", "erecap") else mode.kind,
        stale_first=mode.kind == "erecap",
        draft=bench.draft,
        seed=bench.seed,
    )
    session.read(history)
    return lambda: session.fork().generate(messages, max_new_tokens=count, min_new_tokens=count)


def _floor(bench: ReplanBench, model: Any, tokenizer: Any, new: Message) -> Callable[[], Generation]:
    def call() -> Generation:
        session = ReplanSession(model, tokenizer, draft=False)
        return session.generate([new], max_new_tokens=bench.plan_tokens, min_new_tokens=bench.plan_tokens)

    return call


def _row(length: int, mode: str, repetition: int, generation: Generation) -> JsonRow:
    usage, timing = generation.usage, generation.timing
    return {
        "length": length,
        "mode": mode,
        "repetition": repetition,
        "total_ms": timing.total_ms,
        "prefill_ms": timing.prefill_ms,
        "decode_ms": timing.decode_ms,
        "prune_ms": timing.prune_ms,
        "prompt_tokens": usage.prompt_tokens,
        "new_tokens": usage.new_tokens,
        "plan_tokens": usage.completion_tokens,
        "kept_tokens": usage.kept_tokens,
        "kv_bytes": usage.kv_bytes,
        "accepted_tokens": usage.accepted_tokens,
    }
