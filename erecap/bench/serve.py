"""A conversation that grows, asked of a server over a socket and of a session in this process, call by call in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from erecap.bench.replan.history import Walk
from erecap.budget import Budget
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, EnvironmentUnavailable
from erecap.generation import JsonRow, Message
from erecap.session.session import ReplanSession

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServeBench:
    """Settings of `erecap bench serve`.

    Raises:
        ConfigError: numbers that make no sense.
    """

    turns: int = 60  # planning calls
    turn_tokens: int = 100  # new tokens before each of them, at least
    plan_tokens: int = 32  # generated, at most
    kv_tokens: int = 1024  # budget of both
    seed: int = 0

    def __post_init__(self) -> None:
        if self.turns < 4 or min(self.turn_tokens, self.plan_tokens) < 1 or self.kv_tokens < 16:
            raise ConfigError(
                f"turns {self.turns}, turn_tokens {self.turn_tokens}, plan_tokens {self.plan_tokens}, kv_tokens "
                f"{self.kv_tokens}; allowed: at least 4, 1, 1 and 16"
            )


def serve_bench(bench: ServeBench, model: Any, tokenizer: Any, say: Say) -> JsonRow:
    """Let the conversation grow on the server and on the session, in turn, and time every call.

    Returns:
        `settings`, `rows`, one per call (`prompt_tokens`, `cached_tokens`, `served_ms`, `direct_ms`, `same` answer),
        and `summary` (see `serve_summary`).

    Raises:
        EnvironmentUnavailable: the packages of `erecap[serve]`, or the household simulator, are missing.
    """
    try:
        import openai

        from erecap.serving.app import create_app
        from erecap.serving.background import running
    except ModuleNotFoundError as error:
        raise EnvironmentUnavailable(f"{error.name} is missing: pip install 'erecap[serve]'") from error

    def make() -> ReplanSession:
        return ReplanSession(model, tokenizer, budget=Budget(kv_tokens=bench.kv_tokens), retokenize=True)

    def count(messages: Any) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    from erecap.serving.engine import Engine

    rows: list[JsonRow] = []
    messages: list[Message] = []
    direct = make()
    with Walk(bench.seed) as walk, running(create_app(Engine(model, tokenizer, make), "bench")) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def served() -> tuple[str, int]:
            sent: Any = [{"role": message["role"], "content": message["content"]} for message in messages]
            answer: Any = client.chat.completions.create(
                model="bench", messages=sent, max_tokens=bench.plan_tokens, temperature=0
            )
            return answer.choices[0].message.content or "", answer.usage.prompt_tokens_details.cached_tokens

        def within() -> tuple[str, int]:
            return direct.generate(messages, max_new_tokens=bench.plan_tokens).text, 0

        messages += [{"role": m["role"], "content": m["content"]} for m in walk.start()]
        for turn in range(bench.turns):
            sides = [("served", served), ("direct", within)]
            row: JsonRow = {"turn": turn, "prompt_tokens": count(messages)}
            texts: dict[str, str] = {}
            for name, ask in sides if turn % 2 else reversed(sides):
                started = time.perf_counter()
                texts[name], cached = ask()
                row[f"{name}_ms"] = round((time.perf_counter() - started) * 1e3, 2)
                if name == "served":
                    row["cached_tokens"] = cached
            row["same"] = texts["served"] == texts["direct"]
            rows.append(row)
            told = walk.turn(bench.turn_tokens, count)[1]["content"]
            messages += [{"role": "assistant", "content": texts["direct"]}, {"role": "user", "content": told}]
            say(f"call {turn + 1} of {bench.turns}, {row['prompt_tokens']:,} tokens: {row['served_ms']:.0f} ms served")
    return {"settings": asdict(bench), "summary": serve_summary(rows, bench.kv_tokens), "rows": rows}


def serve_summary(rows: list[JsonRow], kv_tokens: int) -> JsonRow:
    """Figures over the calls whose chat does not fit the budget; over the later half of the calls if fewer do not.

    Returns:
        `calls`; `served_ms` and `direct_ms`, medians; `served_over_direct`, the median over calls; `late_over_early`,
        the median of `served_ms` in the later half of the calls over that in the earlier half; `same_answers`, a share.
    """
    full = [row for row in rows if row["prompt_tokens"] > kv_tokens]
    full = full if len(full) >= 4 else rows[len(rows) // 2 :]
    half = len(full) // 2
    early, late = (median(row["served_ms"] for row in part) for part in (full[:half], full[half:]))
    return {
        "calls": len(full),
        "tokens": [full[0]["prompt_tokens"], full[-1]["prompt_tokens"]],
        "served_ms": median(row["served_ms"] for row in full),
        "direct_ms": median(row["direct_ms"] for row in full),
        "served_over_direct": round(median(row["served_ms"] / row["direct_ms"] for row in full), 4),
        "late_over_early": round(late / early, 4),
        "same_answers": sum(row["same"] for row in full) / len(full),
    }
