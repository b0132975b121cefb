"""An episode that grows far past the model's window: time of a replan on the way, and what its plans are worth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from erecap.bench.callers import answer, floor_message, steady
from erecap.bench.ceilings import ratio, ratio_apart
from erecap.bench.history import wander
from erecap.bench.results import TARGETS, Figure, result_row
from erecap.budget import Budget
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.protocols import JsonRow, Message
from erecap.session.session import ReplanSession

STRETCHES = ("early", "before", "beyond")
RESAMPLES = 10_000


@dataclass(frozen=True)
class EpisodeBench:
    """What is measured."""

    tokens: int = 20_000  # of the episode
    new_tokens: int = 100  # of a turn
    plan_tokens: int = 32  # generated in every measured replan, no more and no fewer
    kv_tokens: int = 1024
    early: int = 1000  # tokens at which the first replans are measured, for flatness
    early_points: int = 5
    before_points: int = 12  # in the last quarter before the window is exceeded
    beyond_points: int = 24  # from there to the end
    seed: int = 0


def episode_bench(
    bench: EpisodeBench, model: Any, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """`raw` rows, one per measured replan.

    One session reads turn by turn and evicts; a measured replan goes on from a copy of it. Beside it stands its
    floor, and the share of its plan's tokens that the model also finds most probable when it reads the tokens that
    were stored afresh, at consecutive positions, and then the plan.

    Raises:
        ConfigError: an episode that does not pass the window, or early points beyond it.
    """
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    edge = window - 2 * bench.new_tokens - bench.plan_tokens  # the last place where a call still fits
    if not bench.early < edge - window // 4 or bench.tokens <= window + 2 * bench.new_tokens:
        raise ConfigError(
            f"tokens must exceed the model's window of {window} by two turns, and early points lie before its last "
            f"quarter; got tokens {bench.tokens}, early {bench.early}"
        )
    plan_of_points = [
        *_places("early", bench.early, bench.early + bench.early_points * bench.new_tokens, bench.early_points),
        *_places("before", edge - window // 4, edge, bench.before_points),
        *_places("beyond", window, bench.tokens - bench.new_tokens, bench.beyond_points),
    ]

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    messages = wander(bench.tokens, count, turn_tokens=bench.new_tokens, seed=bench.seed)
    session = ReplanSession(model, tokenizer, budget=Budget(kv_tokens=bench.kv_tokens), draft=False, seed=bench.seed)
    raw: list[JsonRow] = []
    for end in range(3, len(messages), 2):
        session.read(messages[:end])
        if not plan_of_points or session.cache.get_seq_length() < plan_of_points[0][1]:
            continue
        stretch, _ = plan_of_points.pop(0)
        chat = [*messages[:end], _newest(messages[end])]
        if not raw:
            _measured(bench, model, tokenizer, session, chat, count)  # warm-up
        row = _measured(bench, model, tokenizer, session, chat, count)
        raw.append({"stretch": stretch, **row})
        say(f"{row['read']} tokens read: replan {row['total_ms'] / 1e3:.2f} s, agreement {row['agreement']:.2f}")
    return {"raw": raw, "window": window}


def _measured(
    bench: EpisodeBench, model: Any, tokenizer: Any, session: Any, chat: list[Message], count: Any
) -> JsonRow:
    stored = session.cache.stored_index().tolist()
    read = session.cache.get_seq_length()
    alone = floor_message(tokenizer, chat[:-1], chat[-1], count)
    twin = session.fork()
    with steady() as collect:
        generation = answer(twin, chat, bench.plan_tokens)
        collect()
        floor = answer(ReplanSession(model, tokenizer, draft=False), [alone], bench.plan_tokens)
    # The plan's last token was generated, not read: reading the plan as a message brings it in.
    twin.read([*chat, {"role": "assistant", "content": generation.text, "protect": []}])
    ids = twin.token_ids
    prompt = read + generation.usage.new_tokens
    plan = ids[prompt : prompt + bench.plan_tokens]
    agreement = fresh_agreement(model, [*(ids[place] for place in stored), *ids[read:prompt]], plan)
    return {
        "read": read,
        "stored": len(stored),
        "new_tokens": generation.usage.new_tokens,
        "total_ms": generation.timing.total_ms,
        "floor_ms": floor.timing.total_ms,
        "floor_tokens": floor.usage.new_tokens,
        "agreement": agreement,
        "compared": len(plan),
    }


def fresh_agreement(model: Any, kept: Sequence[int], plan: Sequence[int]) -> float:
    """Share of `plan` that is the model's greedy choice after `kept`, read afresh from position 0, teacher-forced."""
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([[*kept, *plan]], device=model.device), use_cache=False, logits_to_keep=len(plan) + 1
        )
    choices = output.logits[0, :-1].argmax(-1).tolist()
    return sum(a == b for a, b in zip(choices, plan, strict=True)) / len(plan)


def episode_summary(found: JsonRow, seed: int = 0) -> JsonRow:
    """By stretch: medians and agreement; beyond the window minus before it in points, time over the floor, flatness."""
    raw = found["raw"]
    by = {stretch: [row for row in raw if row["stretch"] == stretch] for stretch in STRETCHES}
    stretches = [
        {
            "stretch": stretch,
            "n": len(own),
            "from": min(row["read"] for row in own),
            "to": max(row["read"] for row in own),
            "total_ms": statistics.median(row["total_ms"] for row in own),
            "floor_ms": statistics.median(row["floor_ms"] for row in own),
            "agreement": statistics.mean(row["agreement"] for row in own),
            "stored": statistics.median(row["stored"] for row in own),
        }
        for stretch, own in by.items()
        if own
    ]
    beyond, before, early = by["beyond"], by["before"], by["early"]
    return {
        "stretches": stretches,
        "difference": vars(_difference(beyond, before, seed)),
        "over_floor": vars(ratio([r["total_ms"] for r in beyond], [r["floor_ms"] for r in beyond])),
        "flatness": vars(ratio_apart([r["total_ms"] for r in beyond], [r["total_ms"] for r in early])),
    }


def episode_rows(bench: EpisodeBench, summary: JsonRow, about: JsonRow) -> list[JsonRow]:
    """The row R5, which also needs R2 and R3 to hold beyond the window."""
    by = {entry["stretch"]: entry for entry in summary["stretches"]}
    over, flat = summary["over_floor"]["value"], summary["flatness"]["value"]
    figure = Figure(**summary["difference"])
    holds = TARGETS["R5"].holds(figure.value) and TARGETS["R2"].holds(over) and TARGETS["R3"].holds(flat)
    note = (
        f"{bench.tokens:,} tokens; agreement {100 * by['before']['agreement']:.1f} % in the last quarter before the "
        f"window ({by['before']['n']} replans), {100 * by['beyond']['agreement']:.1f} % beyond "
        f"({by['beyond']['n']}); beyond the window {over:.2f} times the floor, {flat:.2f} times the time at "
        f"{bench.early:,} tokens"
    )
    return [result_row("R5", figure, about, row="algorithm", note=note, holds=holds)]


def _difference(beyond: Sequence[JsonRow], before: Sequence[JsonRow], seed: int) -> Figure:
    """Difference of mean agreements in points, with its 95 % bootstrap interval."""
    first, second = (np.array([row["agreement"] for row in own]) for own in (beyond, before))
    random = np.random.default_rng(seed)
    draws = [own[random.integers(len(own), size=(RESAMPLES, len(own)))].mean(1) for own in (first, second)]
    low, high = np.percentile(100 * (draws[0] - draws[1]), [2.5, 97.5])
    value = 100 * float(first.mean() - second.mean())
    return Figure(value, min(float(low), value), max(float(high), value), len(first) + len(second))


def _places(stretch: str, start: float, end: float, points: int) -> list[tuple[str, float]]:
    return [(stretch, start + (end - start) * number / points) for number in range(points)]


def _newest(message: Message) -> Message:
    return {**message, "protect": [(0, len(message["content"]))]}
