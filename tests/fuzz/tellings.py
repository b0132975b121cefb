"""Random chats and growing prompt strings, as hosts of many scripts and formats tell them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from erecap.context.compaction import MARKER
from tests.context.test_turn_tags import FORMATS
from tests.wrapping.test_prompt_formats import UNKNOWN

TEXTS = (
    "You see a mug 1 and a plate 22 on the shelf 3.",
    "The fridge 1 is closed.",
    "Nothing happens, the way is blocked.",
    "机器人走到冰箱前，看见一个苹果。",
    "ロボットは棚の前に立っています。",
    "يصل الروبوت إلى الثلاجة ويفتحها.",
    "הרובוט רואה ספל.",
    "रोबोट ने अलमारी खोली।",
    "หุ่นยนต์เห็นแก้ว",
    "Робот видит кружку на полке.",
    "cafe\u0301 nai\u0308ve Zu\u0308rich",
    "🤖👩‍🔬🏠 🍎🍏",
    "x =   1\n\tif the_a:\n\t\treturn a",
    "| a | the |\n|---|-----|\n|   1 |  2  |",
    "  #####\n  #a..#   d\n  #####",
    "- one\n- two\n\n\n- three",
    "id: 0a9f-77c1-the-7f e3b0c44298fc1c149afbf4c8996fb924",
    "\u2028line\u0085next\x0bthen\x0cpage\x1cend",
    "one\r\ntwo\r\nthree\r",
    "\ufeffmark \u00a0 space \u200b none",
    "half \ud83d a pair",
    "<tool_call>{}</tool_call>",
    "Observation: a mug\n> look\nYour task is to: wait.",
    MARKER,
    f'"{MARKER}"',
    f"before {MARKER} behind",
    "[]",
    "{}",
    "\x00",
)
TAGS = ("<|im_end|>", "<end_of_turn>\n<start_of_turn>user\n", "[/INST]", "%%x%%", "USER: ", "\nHuman: ")


def text(draw: random.Random, most: int = 5, *, tags: bool = False) -> str:
    """Some texts of several scripts, one below the other or beside each other."""
    pool = (*TEXTS, *TAGS) if tags else TEXTS
    pieces = [draw.choice(pool) for _ in range(draw.randint(1, most))]
    pieces += [f"thing {draw.randrange(1000)}" for _ in range(draw.randrange(3))]
    return draw.choice(("\n", " ", "", "\n\n")).join(pieces)


def content(draw: random.Random) -> str:
    """The content of a message: text, or JSON, or next to nothing."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(("", " ", "\n", "ok", "a"))
    if kind == 1:
        value = {"result": [text(draw, 2) for _ in range(draw.randrange(4))], "n": draw.randrange(99)}
        return json.dumps(value, indent=draw.choice((None, 1)), ensure_ascii=draw.random() < 0.5)
    return text(draw, 6, tags=True)


def spans(draw: random.Random, size: int) -> list[tuple[int, int]]:
    """Up to three spans of a text of that size, in order, none overlapping."""
    borders = sorted(draw.sample(range(size + 1), min(size + 1, 2 * draw.randrange(4))))
    return list(zip(borders[::2], borders[1::2], strict=False))


def lines(draw: random.Random, told: str) -> list[tuple[int, int]]:
    """Spans of some of the lines of a text."""
    found, start = [], 0
    for line in told.split("\n"):
        if line and draw.random() < 0.4:
            found.append((start, start + len(line)))
        start += len(line) + 1
    return found


def message(draw: random.Random, role: str, *, marked: bool) -> dict[str, Any]:
    """A message; where it is `marked`, with spans of its own."""
    made: dict[str, Any] = {"role": role, "content": content(draw)}
    if marked:
        if draw.random() < 0.4:
            made["protect"] = spans(draw, len(made["content"]))
        for key in ("stale", "observations"):
            if draw.random() < 0.4:
                made[key] = lines(draw, made["content"])
    return made


def exchange(draw: random.Random, number: int, *, marked: bool = False) -> list[dict[str, Any]]:
    """An answer, with tools that it calls, and what came of it."""
    told: list[dict[str, Any]] = []
    if draw.random() < 0.3:
        ids = [f"call_{number}_{each}" for each in range(draw.randint(1, 2))]
        calls = [{"id": one, "type": "function", "function": {"name": "look", "arguments": "{}"}} for one in ids]
        said = draw.choice((None, "", text(draw, 1)))
        told.append({"role": "assistant", "content": said, "tool_calls": calls})
        told += [{**message(draw, "tool", marked=marked), "tool_call_id": one} for one in ids]
    else:
        told += [message(draw, "assistant", marked=False) for _ in range(draw.choice((1, 1, 1, 2)))]
    told += [message(draw, "user", marked=marked) for _ in range(draw.choice((0, 1, 1, 1, 2)))]
    if draw.random() < 0.03:
        told.append({"role": "system", "content": text(draw, 1)})
    return told


def chat(draw: random.Random, turns: int, *, marked: bool = False) -> list[dict[str, Any]]:
    """A chat of so many exchanges."""
    head = [{"role": "system", "content": content(draw)}] if draw.random() < 0.8 else []
    if draw.random() < 0.95:
        head.append({"role": "user", "content": content(draw) or "Find the mug."})
    return [*head, *(said for number in range(turns) for said in exchange(draw, number, marked=marked))]


Retell = Callable[[list[dict[str, Any]], int], list[dict[str, Any]]]


def as_it_is(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return told


def _sliding(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    """The head and the newest exchanges, from an answer on."""
    starts = [n for n, said in enumerate(told) if n > 1 and said["role"] == "assistant"]
    return [*told[:2], *told[starts[-6] :]] if len(starts) > 6 else told


def _without_head(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return told[max(0, len(told) - 14) :]


def _counted(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return [{**told[0], "content": f"Step {call}. {told[0]['content']}"}, *told[1:]]


def _newest_told_anew(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return [*told[:-1], {**told[-1], "content": f"Now: {told[-1]['content']}"}]


def _note_at_the_end(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return [*told[:-1], {**told[-1], "content": f"{told[-1]['content']}\nBattery: {call} %."}]


def _aging(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    return [
        {**said, "content": f"{call - n} ago: {said['content']}"} if n > 1 and said["role"] == "user" else said
        for n, said in enumerate(told)
    ]


def _changed_in_the_middle(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    at = len(told) // 2
    return [*told[:at], {**told[at], "content": f"{told[at]['content']}!"}, *told[at + 1 :]] if call % 5 == 4 else told


def _cut_off(told: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    """A host that went back now and then."""
    return told[: max(2, len(told) // 2)] if call % 7 == 6 else told


HOSTS: tuple[Retell, ...] = (
    as_it_is, as_it_is, _sliding, _without_head, _counted, _newest_told_anew, _note_at_the_end, _aging,
    _changed_in_the_middle, _cut_off,
)  # fmt: skip


def turn_marks(draw: random.Random) -> tuple[str, str, str]:
    """Name of a chat format, and what stands in it before and behind what the user tells; "" names plain lines."""
    name = draw.choice(("", *FORMATS, *UNKNOWN))
    before, after = (FORMATS | UNKNOWN).get(name, ("\n", "\n>"))
    return name, before, after


def told_in_a_string(draw: random.Random, number: int) -> str:
    """Text of an observation, without anything that looks like a tag."""
    plain = [one for one in TEXTS if not any(mark in one for mark in "<[>%{|#")]
    seen = [f"You see mug {number} on the shelf {number}."]
    return "\n".join([*seen, *(draw.choice(plain) for _ in range(draw.randrange(4)))])
