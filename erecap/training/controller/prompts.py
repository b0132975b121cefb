"""Prompts to train a controller on: chats with a reference plan each, from CSV, JSONL, or recorded calls."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.training.collect.trajectories import META, read_trajectories
from erecap.training.saliency.samples import GOAL
from erecap.untrusted import parse_json

ROLES = ("system", "user", "assistant")
COLUMNS = "prompt and plan, and if you like system, conversation"


@dataclass(frozen=True)
class Prompt:
    """One planning call."""

    name: str  # its place, for rows
    conversation: str  # calls of one conversation follow each other, and are never split
    messages: tuple[Message, ...]  # the chat; its last message is the user's
    plan: str  # the reference plan: teacher-forced, never written by the model that is judged

    @property
    def history(self) -> list[Message]:
        """The messages that a session has read before this call."""
        return list(self.messages[:-1])


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order of their sources, split by conversation."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    digest: str  # SHA-256 of all of them, and of the split

    @property
    def all(self) -> tuple[Prompt, ...]:
        """Training prompts, then held-out ones."""
        return (*self.train, *self.held_out)


def load_prompts(
    sources: Sequence[Path],
    *,
    limit: int | None = None,
    each: int | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    fits: Callable[[Sequence[Message]], bool] = lambda messages: True,
) -> Prompts:
    """Read prompts and split them.

    Args:
        sources: CSV files (`prompt`, `plan`), JSONL files (`messages` or `prompt`, `plan`), folders that
            `erecap collect` wrote.
        limit: prompts of all sources together; whole conversations are drawn by the seed; None: all.
        each: calls of one conversation, evenly spread from its second call to its last; None: all.
        held_out: share of the conversations that is only tested on.
        seed: of the draw and the split.
        fits: says of a chat whether it may be used; the others are left out first.

    Raises:
        ConfigError: a source that cannot be read, or fewer than two conversations.
    """
    conversations: dict[str, list[Prompt]] = {}
    for number, source in enumerate(sources):
        for prompt in filter(lambda one: fits(one.messages), _read(source, f"{number}:{source.name}")):
            conversations.setdefault(prompt.conversation, []).append(prompt)
    names = sorted(conversations)
    random.Random(seed).shuffle(names)
    chosen: list[str] = []
    count = 0
    for name in names:
        conversations[name] = _spread(conversations[name], each)
        if limit is not None and count and count + len(conversations[name]) > limit:
            continue
        chosen.append(name)
        count += len(conversations[name])
    if len(chosen) < 2:
        raise ConfigError(
            f"prompts: got {len(chosen)} conversations; allowed: 2 or more, to train on some and test on others"
        )
    tested = set(chosen[: max(1, round(held_out * len(chosen)))])
    if len(tested) == len(chosen):
        raise ConfigError(f"held-out: {held_out} of {len(chosen)} conversations leaves none to train on")
    train = tuple(prompt for name in sorted(set(chosen) - tested) for prompt in conversations[name])
    test = tuple(prompt for name in sorted(tested) for prompt in conversations[name])
    return Prompts(train, test, _digest(train, test))


def _spread(prompts: list[Prompt], each: int | None) -> list[Prompt]:
    if each is None or len(prompts) <= each:
        return prompts
    if each == 1:
        return [prompts[-1]]
    first = 1 if len(prompts) > each else 0  # a first call has no history, so no lever matters
    steps = [first + round(number * (len(prompts) - 1 - first) / (each - 1)) for number in range(each)]
    return [prompts[step] for step in dict.fromkeys(steps)]


def _digest(train: Sequence[Prompt], test: Sequence[Prompt]) -> str:
    stated = [[[one.conversation, list(one.messages), one.plan] for one in part] for part in (train, test)]
    return f"sha256:{hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()}"


def _read(source: Path, label: str) -> Iterator[Prompt]:
    if source.is_dir():
        yield from _recorded(source, label)
    elif source.suffix.lower() in (".csv", ".jsonl"):
        try:
            rows = list(_csv(source) if source.suffix.lower() == ".csv" else _jsonl(source))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{source}: cannot be read: {error}") from error
        if not rows:
            raise ConfigError(f"{source}: holds no prompt")
        for number, row in rows:
            yield _prompt(row, f"{source}:{number}", label, number)
    else:
        raise ConfigError(f"{source}: allowed: a file .csv or .jsonl, or a folder of `erecap collect` (with {META})")


def _csv(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"prompt", "plan"} - set(reader.fieldnames or ())
        if missing:
            raise ConfigError(f"{source}: column {sorted(missing)[0]} is missing; allowed: {COLUMNS}")
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key and value}


def _jsonl(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"{source}:{number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{source}:{number}: got {type(row).__name__}; allowed: an object with {COLUMNS}")
        yield number, row


def _prompt(row: dict[str, Any], where: str, label: str, number: int) -> Prompt:
    """The prompt of a row of a file. Raises ConfigError with the row's place."""
    plan = row.get("plan")
    if not isinstance(plan, str) or not plan.strip():
        raise ConfigError(
            f"{where}: has no plan; a reference plan is needed, since a model is not judged by its own text"
        )
    messages = row.get("messages")
    if messages is None:
        text = row.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}: has neither prompt nor messages")
        messages = [{"role": "system", "content": row["system"]}] if isinstance(row.get("system"), str) else []
        messages = [*messages, {"role": "user", "content": text}]
    fine = isinstance(messages, list) and all(
        isinstance(one, dict) and one.get("role") in ROLES and isinstance(one.get("content"), str) for one in messages
    )
    if not fine or not messages or messages[-1]["role"] != "user":
        raise ConfigError(
            f"{where}: messages: allowed: objects with role ({', '.join(ROLES)}) and content, the user's last"
        )
    conversation = row.get("conversation", number)
    if not isinstance(conversation, str | int):
        raise ConfigError(f"{where}: conversation: got {conversation!r}; allowed: a name or a number")
    chat = tuple(Message(role=one["role"], content=one["content"]) for one in messages)
    return Prompt(f"{label}:{number}", f"{label}/{conversation}", chat, plan)


def _recorded(folder: Path, label: str) -> Iterator[Prompt]:
    for row in read_trajectories(folder):
        conversation = f"{label}/{row.suite}/{row.episode}" + (f"@{row.agent}" if row.agent else "")
        for target in row.targets:
            chat = [Message(role=one.role, content=one.content) for one in row.messages[: target.message]]
            if chat and chat[-1]["role"] == "user":
                yield Prompt(f"{conversation}:{target.message}", conversation, _protected(chat), target.plan)


def _protected(chat: Sequence[Message]) -> tuple[Message, ...]:
    """A recorded chat with what the renderer of contexts would protect: the goal, the last plan, the newest message.

    Older goals are stale. What else the context graph calls stale, an older sight of the same place, is not in a chat.
    """
    goals = [
        (number, start, start + len(line))
        for number, one in enumerate(chat)
        if one["role"] == "user"
        for start, line in _lines(one["content"])
        if line.startswith(GOAL)
    ]
    plan = max((number for number, one in enumerate(chat) if one["role"] == "assistant"), default=-1)
    whole = {number for number, one in enumerate(chat) if one["role"] == "system"} | {plan, len(chat) - 1}
    found = []
    for number, one in enumerate(chat):
        protect = [(start, end) for of, start, end in goals[-1:] if of == number and number not in whole]
        stale = [(start, end) for of, start, end in goals[:-1] if of == number]
        message = Message(role=one["role"], content=one["content"], protect=protect, stale=stale)
        if number in whole:
            message["protect"] = [(0, len(one["content"]))]
        found.append(message)
    return tuple(found)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a text with the character at which each begins."""
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1
