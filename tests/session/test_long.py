"""Thousands of replans cost as much each at the end as at the beginning, in work and in memory."""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from erecap.budget import Budget
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.counting import lines_run

BUDGET, WINDOW = 120, 256


def smallest() -> Any:
    """A model of one layer with one head."""
    tokenizer = byte_level()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=WINDOW, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made


def sizes(thing: Any, seen: set[int] | None = None) -> int:
    """Entries of all lists, tuples, sets and dicts reachable from `thing`, and tokens of text and of tensors in it."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (torch.nn.Module, type)) or thing is byte_level():
        return 0
    seen.add(id(thing))
    if isinstance(thing, (str, bytes)):
        return len(thing)
    if isinstance(thing, torch.Tensor):
        return thing.numel()
    if isinstance(thing, dict):
        return len(thing) + sum(sizes(part, seen) for item in thing.items() for part in item)
    if isinstance(thing, (list, tuple, set, frozenset)):
        return len(thing) + sum(sizes(part, seen) for part in thing)
    return sizes(vars(thing), seen) if hasattr(thing, "__dict__") else 0


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Agent:
    """A session that replans over and over, each time about something else."""

    def __init__(self) -> None:
        self.session = ReplanSession(smallest(), byte_level(), budget=Budget(kv_tokens=BUDGET), rewind_tokens=100)
        system, goal = "You plan.", "Goal: cool the apple 1."
        self.session.append([{"role": "system", "content": system}, {"role": "user", "content": goal}])
        self.number = self.read = 0

    def replan(self) -> None:
        """One more replan, and what came of it."""
        number, self.number = self.number, self.number + 1
        self.read += self.session.generate(max_new_tokens=1).usage.new_tokens
        seen = f"a mug {number * 7 % 100}, a knife and an apple {number}"
        text = f"> go to shelf {number % 100}\nOn the shelf you see {seen}."
        claims = {"protect": [(0, 4)], "stale": [(5, 9)]} if number % 10 == 0 else {}
        self.read += self.session.append([{"role": "user", "content": text, **claims}])  # type: ignore[typeddict-item]


def play(replans: int) -> None:
    old = Agent()
    session = old.session
    held, memory, objects = [], [], []
    for number in range(replans):
        old.replan()
        if number % (replans // 10) == replans // 10 - 1:
            gc.collect()
            held.append(sizes(vars(session)))
            memory.append(resident())
            objects.append(len(gc.get_objects()))
            assert max(session.cache.kept_lengths()) <= BUDGET
    # It has read many windows full, and still knows its goal.
    assert old.read > 45 * replans and session.conversation.transcript.tokens >= old.read > 100 * WINDOW
    goal = next(mark for mark in session.conversation.transcript.known_marks if mark.message == 1)
    assert set(range(goal.first, goal.first + len(goal.starts))) <= set(session.cache.layout(0).index[0].tolist())
    # Lists breathe between two tidyings, so the bound is on the most, not on the last.
    assert max(held[5:]) <= 1.3 * max(held[1:5]) + 1000
    assert max(objects[5:]) - max(objects[1:5]) < 2000
    assert memory[-1] - memory[1] < 8 << 20
    # Beside a session a tenth as old. Medians: one call in a few repositions or tidies.
    young = Agent()
    for _ in range(replans // 10):
        young.replan()
    pairs = [(lines_run(old.replan), lines_run(young.replan)) for _ in range(max(100, replans // 20))]
    assert median(a for a, _ in pairs) / median(b for _, b in pairs) < 1.3


@pytest.mark.timeout(900)
@pytest.mark.parametrize("replans", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_replans_stay_flat(replans: int) -> None:
    play(replans)
