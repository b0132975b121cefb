"""Replanning calls of one agent and of many on one device, with random weights: time, memory, and what a GPU holds.

Time and memory depend on a model's shape, not on what it has learned. Every agent's conversation grows by a turn
before each call, as an episode does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from erecap.bench.out_of_memory import MemoryGuard
from erecap.bench.replan.calls import in_one_pass, steady, synchronise
from erecap.budget import Budget
from erecap.context.tokenize import render_prompt
from erecap.cost.flops import ModelShape
from erecap.generation import JsonRow, Message
from erecap.session.pool.pool import ReplanPool
from erecap.session.session import ReplanSession

FULL, REUSE = "full", "reuse"
MARGIN = 0.9  # of a device's memory that may be filled

Say = Callable[[str], None]


@dataclass(frozen=True)
class FleetBench:
    """Settings of `erecap bench fleet`.

    Raises:
        ValueError: numbers that make no sense.
    """

    history: int = 7500  # tokens that every agent has read before
    kept: int = 1024  # tokens that the third way keeps
    agents: tuple[int, ...] = (1, 64)
    new_tokens: int = 100
    plan_tokens: int = 32
    repetitions: int = 3
    minutes: float = 5.0  # after which nothing new is begun
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.history, *self.agents, self.new_tokens, self.repetitions)
        if min(counts) < 1 or self.plan_tokens < 2 or self.kept < 16 or self.minutes <= 0:
            raise ValueError(
                f"got {self}; allowed: counts from 1 on, kept from 16, plan_tokens from 2, minutes above 0"
            )

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways to keep a history, the cheapest first, so that a short time shows most."""
        return str(self.kept), REUSE, FULL


def random_model(shape: ModelShape, window: int, device: Any, dtype: Any, seed: int = 0, tied: bool = False) -> Any:
    """A llama model of this shape with random weights, made on the device; `tied`: its embeddings are its head."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=window, rope_theta=500000.0, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def talk(tokens: int, count: Callable[[Sequence[Message]], int], seed: int, turn_tokens: int) -> list[Message]:
    """A chat of at least so many tokens, in turns of at least `turn_tokens`, that ends with an answer."""
    drawn = random.Random(seed)
    chat: list[Message] = [
        {"role": "system", "content": "You plan for a robot. Reply with the next command."},
        _goal(seed),
        {"role": "assistant", "content": "look around"},
    ]
    read = count(chat)
    while read < tokens:
        chat += [observation(drawn, count, turn_tokens), {"role": "assistant", "content": _command(drawn)}]
        # Rendering all of a long chat after every turn would take longer than most of what is measured.
        read = count(chat) if read + 2 * turn_tokens >= tokens else read + turn_tokens
    return chat


def _goal(agent: int) -> Message:
    """The first user message, in which the agents differ, so that nothing behind it can be shared."""
    return {"role": "user", "content": f"Goal: bring mug {agent} to table {agent + 1}."}


def observation(drawn: random.Random, count: Callable[[Sequence[Message]], int], tokens: int) -> Message:
    """A user message of at least so many tokens."""
    lines: list[str] = []
    while True:
        things = ", ".join(f"a {drawn.choice(_THINGS)} {drawn.randrange(99)}" for _ in range(3))
        lines.append(f"On the {drawn.choice(_PLACES)} {drawn.randrange(99)}, you see {things}.")
        message: Message = {"role": "user", "content": "\n".join(lines)}
        if count([message]) >= tokens:
            return message


_PLACES = ("shelf", "table", "counter", "drawer", "bench")
_THINGS = ("mug", "cup", "plate", "knife", "apple", "book")


def _command(drawn: random.Random) -> str:
    return f"go to {drawn.choice(_PLACES)} {drawn.randrange(99)}"


def fleet_bench(bench: FleetBench, model: Any, tokenizer: Any, say: Say = lambda line: None) -> dict[str, Any]:
    """Measure every way with every number of agents, as far as the time goes.

    Returns:
        `rows` (one a call of all agents together), `summary` (a row for each way and number of agents), `left_out`
        (what was not measured, and why), `memory`, and `fit` (what `erecap scale --measured` takes; None where too
        little was measured).

    Raises:
        ValueError: the history does not fit the model's window.
    """
    window = in_one_pass(model)
    room = bench.history + (bench.repetitions + 3) * (2 * bench.new_tokens + bench.plan_tokens)
    if room > window:
        raise ValueError(f"a history of {bench.history:,} tokens needs a window of {room:,}, the model has {window:,}")
    run = _Fleet(bench, model, tokenizer, say)
    with steady() as collect:
        for agents in bench.agents:
            for way in bench.ways:
                run.measure(way, agents)
                collect()
    return run.found()


class _Fleet:
    def __init__(self, bench: FleetBench, model: Any, tokenizer: Any, say: Say) -> None:
        self.bench, self.model, self.tokenizer, self.say = bench, model, tokenizer, say
        self.until = time.monotonic() + 60 * bench.minutes
        self.guard = MemoryGuard(say)
        self.rows: list[JsonRow] = []
        self.left_out: list[JsonRow] = []
        self.seconds: dict[str, float] = {}  # of one agent's call, by way

    def count(self, messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, self.tokenizer).input_ids)

    def measure(self, way: str, agents: int) -> None:
        """Let the agents read their histories, then call them together, some times over."""
        left = self.until - time.monotonic()
        # Reading a history takes what a full call takes; where none was made yet, it is tried.
        expected = agents * self.seconds.get(FULL, 0.0) * (1 if way != FULL else self.bench.repetitions)
        if left <= 0 or expected > left:
            reason = f"{left:.0f} s were left, about {expected:.0f} s are needed" if left > 0 else "no time was left"
            self.left_out.append({"way": way, "agents": agents, "reason": reason})
            self.say(f"{way}, {agents} agents: left out, {reason}")
            return
        self.say(f"{way}, {agents} agents: reading histories of {self.bench.history:,} tokens")
        before = len(self.rows)
        key = (way, str(agents))
        done = self.guard.tried(key, agents, f"{way} with {agents} agents", lambda: self._calls(way, agents))
        if done is None:
            del self.rows[before:]
            self.left_out.append({"way": way, "agents": agents, "reason": "out of memory"})

    def _calls(self, way: str, agents: int) -> bool:
        bench = self.bench
        common = talk(bench.history, self.count, bench.seed, bench.new_tokens)
        talks = [[common[0], _goal(agent), *common[2:]] for agent in range(agents)]
        drawn, pool = random.Random(bench.seed), ReplanPool(self.model, self.tokenizer)
        sessions = [] if way == FULL else [self._session(way) for _ in range(agents)]
        if sessions:
            pool.run([lambda s=s, chat=chat: s.read(chat[:-1]) for s, chat in zip(sessions, talks, strict=True)])  # type: ignore[misc]
        for repetition in range(-1, bench.repetitions):  # the first is the warm-up
            told, said = observation(drawn, self.count, bench.new_tokens), _command(drawn)
            for chat in talks:
                chat.append(told)
            asked = sessions or [self._session(way) for _ in range(agents)]
            options = {"max_new_tokens": bench.plan_tokens, "min_new_tokens": bench.plan_tokens}
            calls = [(session, chat, options) for session, chat in zip(asked, talks, strict=True)]
            synchronise(self.model)
            started = time.perf_counter()
            answers = pool.generate(calls)  # type: ignore[arg-type]
            synchronise(self.model)
            took = time.perf_counter() - started
            for chat in talks:
                chat.append({"role": "assistant", "content": said})
            if repetition >= 0:
                self.rows.append(self._row(way, agents, repetition, took, answers, asked))
            if time.monotonic() > self.until and repetition >= 0:
                break
        if agents == 1:
            self.seconds[way] = took
        return True

    def _session(self, way: str) -> ReplanSession:
        if way == FULL:
            return ReplanSession(self.model, self.tokenizer, draft=False, prefill_chunk=in_one_pass(self.model))
        budget = None if way == REUSE else Budget(kv_tokens=self.bench.kept)
        return ReplanSession(self.model, self.tokenizer, draft=False, budget=budget)

    def _row(
        self,
        way: str,
        agents: int,
        repetition: int,
        took: float,
        answers: Sequence[Any],
        asked: Sequence[ReplanSession],
    ) -> JsonRow:
        return {
            "way": way,
            "agents": agents,
            "repetition": repetition,
            "seconds": took,
            "decode_s": statistics.median(answer.timing.decode_ms for answer in answers) / 1e3,
            "prompt_tokens": statistics.median(answer.usage.prompt_tokens for answer in answers),
            "new_tokens": statistics.median(answer.usage.new_tokens for answer in answers),
            "kv_bytes": statistics.median(session.engine.kv_bytes() for session in asked),
            "stored_tokens": statistics.median(session.engine.stored().most for session in asked),
        }

    def found(self) -> dict[str, Any]:
        """The result."""
        summary = []
        for way, agents in dict.fromkeys((row["way"], row["agents"]) for row in self.rows):
            own = [row for row in self.rows if (row["way"], row["agents"]) == (way, agents)]
            seconds = [row["seconds"] for row in own]
            middle = {
                key: statistics.median(row[key] for row in own)
                for key in ("seconds", "decode_s", "new_tokens", "kv_bytes", "stored_tokens")
            }
            summary.append(
                {"way": way, "agents": agents, "n": len(own), "low": min(seconds), "high": max(seconds), **middle,
                 "an_agent_s": middle["seconds"] / agents, "fit": self._held(middle["kv_bytes"])}
            )  # fmt: skip
        return {
            "settings": asdict(self.bench), "rows": self.rows, "summary": summary, "left_out": self.left_out,
            "memory": self._memory(), "fit": self._fit(summary),
        }  # fmt: skip

    def _memory(self) -> JsonRow:
        weights = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
        if self.model.device.type != "cuda":
            return {"weight_bytes": weights, "device_bytes": None, "peak_bytes": None}
        total = torch.cuda.get_device_properties(self.model.device).total_memory
        peak = torch.cuda.max_memory_allocated(self.model.device)
        return {"weight_bytes": weights, "device_bytes": total, "peak_bytes": peak}

    def _held(self, kv_bytes: float) -> int | None:
        """Agents whose keys and values fit beside the weights, from the bytes of one; None on other devices."""
        memory = self._memory()
        if memory["device_bytes"] is None:
            return None
        return int((MARGIN * memory["device_bytes"] - memory["weight_bytes"]) // kv_bytes)

    def _fit(self, summary: Sequence[JsonRow]) -> JsonRow | None:
        at = {(row["way"], row["agents"]): row for row in summary}
        kept = [row for row in summary if row["way"] == str(self.bench.kept)]
        if (FULL, 1) not in at or len(kept) < 2:
            return None
        steps, full = self.bench.plan_tokens - 1, at[FULL, 1]
        decode = [
            {"agents": row["agents"], "kv": row["stored_tokens"], "s": row["decode_s"] / steps} for row in kept
        ]  # fmt: skip
        read_s = full["seconds"] - full["decode_s"]
        return {"read_tokens": int(full["new_tokens"]), "read_s": read_s, "decode": decode}
