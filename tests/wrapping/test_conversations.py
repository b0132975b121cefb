"""Conversations of one planner: any number at a time, told apart, found again, and bounded in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import erecap
from erecap.context.token_estimate import estimate_tokens
from erecap.wrapping.conversations import Conversations
from erecap.wrapping.token_counting import TokenCounter


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def seen(number: int) -> str:
    return f"You see mug {number} on the shelf {number}, a pen, and a book."


def small(most: int, memory_bytes: int) -> Conversations:
    counter = TokenCounter()
    return Conversations(counter.chat, counter.text, max_tokens=most, memory_bytes=memory_bytes)


@pytest.mark.parametrize("robots", [64, 65, 150])
def test_any_number_of_strings_is_shortened(robots: int) -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=300)
    prompts = [f"robot {robot}\n>" for robot in range(robots)]
    for step in range(16):
        for robot in range(robots):
            prompts[robot] += f" {wrapped(prompts[robot])}\n{seen(step)}\n>"
    assert max(map(estimate_tokens, shown)) <= 300 < estimate_tokens(prompts[0])
    assert all(prompt.startswith(f"robot {robot}\n>") for robot, prompt in enumerate(shown[-robots:]))


def test_any_number_of_chats_that_begin_alike_is_told_apart(tmp_path: Path) -> None:
    wrapped = erecap.wrap(lambda chat: "go", keep_tokens=400, log=tmp_path)
    chats: list[list[dict]] = [[{"role": "user", "content": "Find the mug."}] for _ in range(80)]
    for step in range(16):
        for robot, chat in enumerate(chats):
            wrapped(chat)
            chat += [{"role": "assistant", "content": "go"}, {"role": "user", "content": seen(100 * robot + step)}]
    last = rows(tmp_path)[-80:]
    assert all(row["kept_tokens"] <= 400 and row["compactions"] <= 4 and not row["thrashed"] for row in last)
    assert sum(row["reused_tokens"] > 0 for row in rows(tmp_path)[-400:]) > 350


def test_a_forgotten_string_is_shortened_when_it_comes_back() -> None:
    conversations = small(300, memory_bytes=20_000)
    prompts = {name: f"Robot {name}.\n> look\nAn example.\n>" for name in ("a", *map(str, range(30)))}
    for step in range(25):
        prompts["a"] += f" go\n{seen(step)}\n>"
        conversations.show_prompt(prompts["a"], 300)
    for prompt in prompts.values():
        conversations.show_prompt(prompt, 300)  # `a` is forgotten on the way
    prompts["a"] += f" go\n{seen(99)}\n>"
    shown, view, _ = conversations.show_prompt(prompts["a"], 300)
    assert view.before > 400 and view.tokens <= 300 and estimate_tokens(shown) <= 300
    assert shown.startswith("Robot a.\n> look\nAn example.\n>") and shown.endswith(f" go\n{seen(99)}\n>")


def test_memory_is_bounded_by_bytes() -> None:
    conversations = small(10_000, memory_bytes=100_000)
    for robot in range(400):
        conversations.show_prompt(f"Robot {robot}.\n>", 10_000)
        conversations.show_chat([{"role": "user", "content": f"Robot {robot} " + "x" * 300}], 10_000)
        held = conversations.remembered
        assert held["bytes"] <= 100_000 and held["messages"] <= held["conversations"] <= 200
    assert 50 < held["conversations"] and 0 < held["forgotten"] <= 100_000 >> 9
