"""The time of one decoded token, by stored tokens and precision of the weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from erecap.bench.decode_settings import DecodeBench
from erecap.bench.drafted_replans import repeated_plans
from erecap.bench.replan.calls import answer, in_turn
from erecap.bench.replan.history import cut, next_turn, wander
from erecap.context.tokenize import render_prompt
from erecap.decoding.linear import WEIGHTS, known_weights
from erecap.errors import ConfigError
from erecap.generation import Generation, JsonRow, Message
from erecap.session.session import ReplanSession

NEW_TOKENS = 40  # of the turn that is read before decoding; with the template's own text


def decode_bench(
    bench: DecodeBench, model: Any, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """Return `raw` rows of plain decoding, weights in turn, and `repeated` rows of replans decoded in both ways.

    Raises:
        ConfigError: unknown weights, or lengths that do not fit the window.
    """
    _check(bench, model)

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    longest = wander(max(bench.kv), count, seed=bench.seed) if max(bench.kv) else []
    new = next_turn(NEW_TOKENS, count, seed=bench.seed)
    raw: list[JsonRow] = []
    for kv in bench.kv:
        history = cut(longest, kv, count) if kv else []
        calls = {weights: _call(bench, model, tokenizer, history, new, weights) for weights in bench.weights}
        say(f"decoding on {kv} stored tokens: warming up")
        for call in calls.values():
            call()
        for repetition, weights, call in in_turn(calls, bench.repetitions):
            raw.append({"kv": kv, "weights": weights, "repetition": repetition, **_raw(call())})
        say(f"decoding on {kv} stored tokens: done")
        del calls
    found: JsonRow = {"raw": raw, "repeated": []}
    if bench.drafted:
        found["repeated"] = repeated_plans(bench, model, tokenizer, count, say)
    return found


def decode_summary(found: JsonRow) -> list[JsonRow]:
    """Per stored tokens and weights: median, min and max of milliseconds a token."""
    summary = []
    for kv, weights in dict.fromkeys((row["kv"], row["weights"]) for row in found["raw"]):
        own = [row for row in found["raw"] if (row["kv"], row["weights"]) == (kv, weights)]
        times = [row["ms_per_token"] for row in own]
        summary.append(
            {
                "kv": kv,
                "stored": own[0]["stored"],
                "weights": weights,
                "n": len(times),
                "ms_per_token": statistics.median(times),
                "min_ms": min(times),
                "max_ms": max(times),
            }
        )
    return summary


def _call(
    bench: DecodeBench, model: Any, tokenizer: Any, history: Sequence[Message], new: Message, weights: str
) -> Callable[[], Generation]:
    session = ReplanSession(model, tokenizer, draft=False, decode_weights=known_weights(weights))
    if history:
        session.read(history)
    messages = [*history, new]
    return lambda: answer(session.fork(), messages, bench.tokens)


def _raw(generation: Generation) -> JsonRow:
    steps = generation.usage.completion_tokens - 1  # the first token comes with the prefill
    return {"stored": generation.usage.kept_tokens, "ms_per_token": generation.timing.decode_ms / steps}


def _check(bench: DecodeBench, model: Any) -> None:
    unknown = [name for name in (*bench.weights, bench.product_weights) if name not in WEIGHTS]
    if unknown or not bench.weights:
        raise ConfigError(f"unknown weights {', '.join(unknown) or 'none'}; allowed: {', '.join(WEIGHTS)}")
    if not bench.kv or min(bench.kv) < 0 or bench.tokens < 2:
        raise ConfigError(f"kv must be 0 or more and tokens 2 or more, got {bench.kv} and {bench.tokens}")
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    most = max(max(bench.kv) + 200 + NEW_TOKENS, bench.kv_tokens) + bench.tokens
    if most > window:
        raise ConfigError(f"{max(bench.kv)} stored tokens do not fit the window of {window} with what is decoded")
