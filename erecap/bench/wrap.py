"""A growing chat, asked of a model as it is, wrapped, and wrapped with a budget: times, tokens read, same answers."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from erecap.bench.replan.history import Walk
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message
from erecap.wrapping import wrap

Say = Callable[[str], None]
SIDES = ("bare", "wrapped", "budget")


@dataclass(frozen=True)
class WrapBench:
    """Settings of the benchmark.

    Raises:
        ConfigError: numbers that make no sense.
    """

    lengths: tuple[int, ...] = (500, 1000, 2000, 4000)  # tokens of the chat before a timed call, at least
    new_tokens: int = 100  # of the turn before a timed call, at least
    plan_tokens: int = 32  # generated, exactly
    kv_tokens: int = 1024  # of the side with a budget
    repetitions: int = 3  # chats, each in other games
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.lengths, default=0) < 1 or min(self.new_tokens, self.plan_tokens, self.repetitions) < 1:
            raise ConfigError(
                f"lengths {self.lengths}, new_tokens {self.new_tokens}, plan_tokens {self.plan_tokens}, repetitions "
                f"{self.repetitions}; allowed: from 1 on"
            )
        if self.kv_tokens < 16:
            raise ConfigError(f"kv_tokens must be 16 or more, got {self.kv_tokens}")


def wrap_bench(bench: WrapBench, model: Any, tokenizer: Any, say: Say) -> JsonRow:
    """Let the chat grow on each side, in turn, and time every call.

    Returns:
        `settings`; `rows`, one per timed call (`repetition`, `length`, `side`, `prompt_tokens`, `read_tokens`,
        `stored_tokens`, `ms`, `equal_tokens` to the bare model's answer); and `summary` (see `wrap_summary`).

    Raises:
        EnvironmentUnavailable: the household simulator is missing.
    """
    rows: list[JsonRow] = []
    for repetition in range(bench.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            rows += _chat(bench, model, tokenizer, repetition, Path(folder), say)
    return {"settings": asdict(bench), "summary": wrap_summary(rows), "rows": rows}


def _chat(bench: WrapBench, model: Any, tokenizer: Any, repetition: int, folder: Path, say: Say) -> list[JsonRow]:
    targets = {
        "bare": model,
        "wrapped": wrap(model, log=folder / "wrapped"),
        "budget": wrap(model, budget=bench.kv_tokens, log=folder / "budget"),
    }

    def prompt() -> torch.Tensor:
        return torch.tensor([list(render_prompt(messages, tokenizer).input_ids)], device=model.device)

    def count(chat: Any) -> int:
        return len(render_prompt(chat, tokenizer).input_ids)

    def ask(side: str, ids: torch.Tensor) -> list[int]:
        output = targets[side].generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=bench.plan_tokens,
            min_new_tokens=bench.plan_tokens, do_sample=False,
        )  # fmt: skip
        return output[0, ids.shape[1] :].tolist()

    rows: list[JsonRow] = []
    messages: list[Message] = []
    with Walk(bench.seed + repetition) as walk:
        messages += walk.start()
        for number, length in enumerate(bench.lengths):
            while count(messages) < length:
                messages += walk.turn(bench.new_tokens, count)
            for side in SIDES[1:]:  # the conversations read the history in calls that are not timed
                answer = ask(side, prompt())
            told = walk.turn(bench.new_tokens, count)[1]
            messages += [{"role": "assistant", "content": tokenizer.decode(answer, skip_special_tokens=True)}, told]
            ids = prompt()
            answers: dict[str, list[int]] = {}
            shift = (repetition + number) % len(SIDES)
            for side in (*SIDES[shift:], *SIDES[:shift]):
                started = time.perf_counter()
                answers[side] = ask(side, ids)
                row: JsonRow = {"repetition": repetition, "length": length, "side": side, "prompt_tokens": ids.shape[1]}
                row["ms"] = round((time.perf_counter() - started) * 1e3, 1)
                row |= {"read_tokens": ids.shape[1], "stored_tokens": 0}
                if side != "bare":
                    noted = json.loads((folder / side / "replans.jsonl").read_text("utf-8").splitlines()[-1])
                    stored = targets[side].held.idle()[-1].stored  # of the conversation that was just given back
                    row |= {"read_tokens": noted["new_tokens"], "stored_tokens": stored}
                rows.append(row)
            for row in rows[-len(SIDES) :]:
                pairs = zip(answers[row["side"]], answers["bare"], strict=True)
                row["equal_tokens"] = sum(a == b for a, b in pairs)
            messages.append(
                {"role": "assistant", "content": tokenizer.decode(answers["bare"], skip_special_tokens=True)}
            )
            say(f"chat {repetition + 1} of {bench.repetitions}, {ids.shape[1]:,} tokens")
    return rows


def wrap_summary(rows: list[JsonRow]) -> list[JsonRow]:
    """One row per length and side: medians, the range of times, and the bare model's time over this side's.

    Returns:
        Rows of `length`, `side`, `prompt_tokens`, `read_tokens`, `stored_tokens` (medians), `ms` (median, least,
        most), `speed_up` (the median over repetitions, least, most) and `equal_tokens` (a share of all answers).
    """
    found: list[JsonRow] = []
    for length in dict.fromkeys(row["length"] for row in rows):
        here = [row for row in rows if row["length"] == length]
        bare = {row["repetition"]: row["ms"] for row in here if row["side"] == "bare"}
        tokens = {row["repetition"]: row["equal_tokens"] for row in here if row["side"] == "bare"}
        for side in SIDES:
            own = [row for row in here if row["side"] == side]
            times = [row["ms"] for row in own]
            ratios = [bare[row["repetition"]] / row["ms"] for row in own]
            found.append(
                {
                    "length": length,
                    "side": side,
                    **{name: median(row[name] for row in own) for name in ("prompt_tokens", "read_tokens")},
                    "stored_tokens": median(row["stored_tokens"] for row in own),
                    "ms": [median(times), min(times), max(times)],
                    "speed_up": [round(value, 3) for value in (median(ratios), min(ratios), max(ratios))],
                    "equal_tokens": round(sum(row["equal_tokens"] for row in own) / sum(tokens.values()), 4),
                }
            )
    return found
