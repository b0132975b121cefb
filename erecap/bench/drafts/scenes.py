"""Scenes of the bench of drafts: replans that repeat part of the last plan, new plans, and prompts of a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erecap.bench.drafted_replans import repeats
from erecap.bench.drafts.calls import Ways
from erecap.bench.drafts.settings import DraftsBench
from erecap.bench.replan.history import Count, Walk
from erecap.budget import Budget
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message
from erecap.untrusted import parse_json

Say = Callable[[str], None]


def replans(bench: DraftsBench, ways: Ways, tokenizer: Any, count: Count, say: Say) -> list[JsonRow]:
    """Rows of replans in a household game: the model plans, the game answers to its commands, and it plans again.

    The first plan has none before it to repeat; it warms everything up, and is not among the rows.
    """
    rows: list[JsonRow] = []
    ways.forget()
    sessions = ways.sessions(Budget(kv_tokens=bench.kv_tokens))
    with Walk(bench.seed) as walk:
        messages = _history(walk, bench.history, count)
        old = ""
        for point in range(bench.points + 1):
            for session in sessions.values():
                session.read(messages[:-1])
            text, found = ways.answer(
                sessions, messages, {"scene": "replans", "point": point}, tokens=bench.tokens, least=bench.tokens,
                given=old or None, repetitions=bench.repetitions if point else 1,
            )  # fmt: skip
            if point:
                rows += [{**row, "repeats": repeats(tokenizer, old, text)} for row in found]
            say(f"replan {point} of {bench.points}: done")
            old = text
            messages += [{"role": "assistant", "content": old, "protect": []}, _newest(walk.follow(old))]
    return rows


def new_plans(bench: DraftsBench, ways: Ways, count: Count, say: Say) -> list[JsonRow]:
    """Rows of first plans, each in a game of its own, behind a history of random commands."""
    rows: list[JsonRow] = []
    ways.forget()
    for point in range(bench.new_plans):
        sessions = ways.sessions(Budget(kv_tokens=bench.kv_tokens))
        with Walk(bench.seed + 1 + point) as walk:
            messages = _history(walk, bench.history, count)
        for session in sessions.values():
            session.read(messages[:-1])
        scene = {"scene": "new plans", "point": point, "repeats": 0.0}
        rows += ways.answer(
            sessions, messages, scene, tokens=bench.tokens, least=bench.tokens, repetitions=bench.repetitions
        )[1]
        say(f"new plan {point + 1} of {bench.new_plans}: done")
    return rows


def prompts(bench: DraftsBench, sets: dict[str, list[list[str]]], ways: Ways, say: Say) -> list[JsonRow]:
    """Rows of the answers to prompts, set by set; later turns follow on plain answers."""
    rows: list[JsonRow] = []
    for name, chats in sets.items():
        ways.forget()
        for point, turns in enumerate(chats):
            sessions, messages = ways.sessions(None), list[Message]()
            for turn, text in enumerate(turns):
                messages.append({"role": "user", "content": text})
                for session in sessions.values():
                    session.read(messages)
                scene = {"scene": name, "point": point, "turn": turn, "repeats": 0.0}
                said, found = ways.answer(
                    sessions, messages, scene, tokens=bench.prompt_tokens, repetitions=bench.repetitions
                )
                rows += found
                messages.append({"role": "assistant", "content": said})
        say(f"{name}: {len(chats)} prompts done")
    return rows


def prompt_sets(folder: Path, count: int) -> dict[str, list[list[str]]]:
    """The first `count` prompts of each JSONL file of a folder: the turns of the user, by the file's name.

    Raises:
        ConfigError: no such folder, no such file in it, or a row without turns.
    """
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"--prompts: {folder} is no folder with .jsonl files in it")
    found: dict[str, list[list[str]]] = {}
    for file in files:
        try:
            rows = [parse_json(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise ConfigError(f"--prompts: {file.name} cannot be read: {error}") from error
        for number, row in enumerate(rows[:count], 1):
            turns = row.get("turns") if isinstance(row, dict) else None
            if not turns or not isinstance(turns, list) or not all(isinstance(turn, str) and turn for turn in turns):
                raise ConfigError(f"--prompts: {file.name}, row {number}: 'turns' must be a list of texts")
            found.setdefault(file.stem, []).append(turns)
        if file.stem not in found:
            raise ConfigError(f"--prompts: {file.name} has no rows")
    return found


def _history(walk: Walk, tokens: int, count: Count) -> list[Message]:
    messages = walk.start()
    while count(messages) < tokens:
        messages += walk.turn(100, count)
    return messages


def _newest(message: Message) -> Message:
    return {**message, "protect": [(0, len(message["content"]))]}


def that_fit(
    sets: dict[str, list[list[str]]], count: Count, bench: DraftsBench, window: int
) -> tuple[dict[str, list[list[str]]], dict[str, int]]:
    """The prompts that fit the model's window with their answers, and by set the number of those that do not."""
    fitting, left_out = dict[str, list[list[str]]](), dict[str, int]()
    for name, chats in sets.items():
        fitting[name] = []
        for turns in chats:
            chat: Sequence[Message] = [{"role": "user", "content": turn} for turn in turns]
            if count(chat) + (bench.prompt_tokens + 16) * len(turns) < window:
                fitting[name].append(turns)
        left_out[name] = len(chats) - len(fitting[name])
    return fitting, left_out
