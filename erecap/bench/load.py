"""Many agents ask one server at a time: seconds of calls, tokens that it found in its cache, calls that failed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from erecap.bench.fleet import observation, talk
from erecap.context.token_estimate import estimate_tokens
from erecap.errors import BudgetError, ModelError
from erecap.generation import JsonRow, Message
from erecap.language_models.served import ServedLanguageModel

Say = Callable[[str], None]


@dataclass(frozen=True)
class LoadBench:
    """Settings of `erecap bench load`.

    Raises:
        ValueError: numbers that make no sense.
    """

    agents: int = 16  # conversations at a time
    calls: int = 8  # of each agent
    history: int = 2000  # tokens that a conversation begins with, about
    new_tokens: int = 100  # of a turn, about
    plan_tokens: int = 32  # generated in a call, at most
    pause_s: float = 0.0  # between an answer and the next call
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.agents, self.calls, self.history, self.new_tokens, self.plan_tokens) < 1 or self.pause_s < 0:
            raise ValueError(f"got {self}; allowed: counts from 1 on, and a pause from 0 on")


def load_bench(bench: LoadBench, url: str, say: Say = lambda line: None, patience_s: float = 120.0) -> dict[str, Any]:
    """Let all agents lead their conversations at the same time.

    A call that fails is made again with the next turn, as an agent would.

    Args:
        patience_s: for which a busy server is asked again.

    Returns:
        `settings`, `rows` (one a call) and `summary`.

    Raises:
        ConfigError: a URL that is none, or a key that no header can carry.
        ModelError: the server cannot be reached at the start, or its model is not known.
    """
    ServedLanguageModel(url, patience_s=0).name  # noqa: B018 (asks)
    say(f"{bench.agents} agents begin")
    started = time.perf_counter()
    ended = threading.Event()
    with ThreadPoolExecutor(bench.agents) as agents:
        try:
            led = [agents.submit(_lead, bench, url, number, patience_s, ended) for number in range(bench.agents)]
            rows = [row for conversation in led for row in conversation.result()]
        finally:
            ended.set()  # after Ctrl-C, agents end with the call that they are in
    return {"settings": asdict(bench), "summary": load_summary(rows, time.perf_counter() - started), "rows": rows}


def _count(messages: Any) -> int:
    return sum(estimate_tokens(message["content"]) for message in messages)


def _lead(bench: LoadBench, url: str, number: int, patience_s: float, ended: threading.Event) -> list[JsonRow]:
    """The calls of one agent."""
    model, drawn = ServedLanguageModel(url, patience_s=patience_s), random.Random(bench.seed + number)
    chat: list[Message] = talk(bench.history, _count, bench.seed + number, bench.new_tokens)
    rows: list[JsonRow] = []
    for call in range(bench.calls):
        if ended.is_set():
            break
        chat.append(observation(drawn, _count, bench.new_tokens))
        row: JsonRow = {"agent": number, "call": call, "error": None}
        started = time.perf_counter()
        try:
            answer = model.generate(chat, max_new_tokens=bench.plan_tokens)
        except (BudgetError, ModelError) as error:
            row["error"], said = str(error), "go on"
        else:
            usage, said = answer.usage, answer.text or "go on"
            row |= {"prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.reused_tokens}
            row["completion_tokens"] = usage.completion_tokens
        row["seconds"] = time.perf_counter() - started
        rows.append(row)
        chat.append({"role": "assistant", "content": said})
        ended.wait(bench.pause_s)
    return rows


def load_summary(rows: list[JsonRow], seconds: float) -> JsonRow:
    """Figures of all calls.

    Returns:
        `calls`, `failed`, `first_error`; seconds of those that were answered: `p50_s`, `p95_s`, `max_s`; `cached`, the
        share of prompt tokens that was found in the cache after an agent's first call; `calls_per_s`.
    """
    answered = [row for row in rows if row["error"] is None]
    later = [row for row in answered if row["call"] > 0]
    took = [row["seconds"] for row in answered]
    p50, p95 = (float(value) for value in np.percentile(took, [50, 95])) if took else (None, None)
    prompt = sum(row["prompt_tokens"] for row in later)
    return {
        "calls": len(rows),
        "failed": len(rows) - len(answered),
        "first_error": next((row["error"] for row in rows if row["error"] is not None), None),
        "p50_s": p50,
        "p95_s": p95,
        "max_s": max(took, default=None),
        "cached": sum(row["cached_tokens"] for row in later) / prompt if prompt else None,
        "calls_per_s": len(answered) / seconds,
    }
