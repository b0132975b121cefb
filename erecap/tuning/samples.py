"""Planning calls to compare on: a prompt of a given length, and the plan that answered it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.context.prompt import record_text
from erecap.context.protection import protected_spans
from erecap.context.tokenize import encode_from, render_prompt
from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError
from erecap.generation import Message

SHORTEST = 16  # tokens of a prompt
TURN_TOKENS = 100  # of an observation in the built-in walks


@dataclass(frozen=True)
class Transcript:
    """A chat, and for each of its planning calls the place of the answer and the plan that should stand there."""

    messages: Sequence[Message]
    plans: Sequence[tuple[int, str]]  # (m, plan): the call sees messages[:m]


@dataclass(frozen=True)
class Sample:
    """One planning call as tokens."""

    prompt: tuple[int, ...]  # up to the header of the assistant's turn
    plan: tuple[int, ...]  # the plan and the end of the turn
    protect: tuple[tuple[int, int], ...]  # spans of prompt tokens that no stage drops


def built_in(length: int, tokenizer: Any, seed: int) -> Iterator[Transcript]:
    """Walks through generated household games, without end; each holds one call with `length` tokens or more.

    The plan is that of the turn that follows: what the agent then does.

    Raises:
        EnvironmentUnavailable: the household simulator is missing.
    """
    from erecap.bench.replan.history import Walk

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    number = 0
    while True:
        with Walk(seed + number) as walk:
            messages = walk.start()
            turn = walk.turn(TURN_TOKENS, count)
            while count(messages) < length:
                messages += turn
                turn = walk.turn(TURN_TOKENS, count)
        yield Transcript(_plain(messages), [(len(messages), turn[0]["content"])])
        number += 1


def recorded(folder: Path, seed: int) -> Iterator[Transcript]:
    """Transcripts of a trajectory folder (`erecap collect`), in an order drawn from `seed`.

    Raises:
        ConfigError: no trajectories in `folder`, or a damaged row.
    """
    from erecap.training.collect.trajectories import read_trajectories

    found = [
        Transcript(
            _plain([message.model_dump() for message in trajectory.messages]),
            [(target.message, target.plan) for target in trajectory.targets],
        )
        for trajectory in read_trajectories(folder)
    ]
    random.Random(seed).shuffle(found)
    return iter(found)


def take(transcripts: Iterable[Transcript], count: int, length: int, model: Any, tokenizer: Any) -> list[Sample]:
    """The first `count` samples: of each transcript the first call whose prompt has `length` tokens or more.

    Transcripts without such a call, and calls that do not fit the model's window, are passed over; so fewer samples
    may come back.

    Raises:
        ConfigError: not a single one, or a length that leaves no room in the window.
    """
    window = int(model.config.get_text_config(decoder=True).max_position_embeddings)
    if not SHORTEST <= length < window:
        raise ConfigError(f"--length: got {length}; allowed: {SHORTEST} to {window - 1}, within the model's window")
    end = answer_ends(model, tokenizer)[0]
    found: list[Sample] = []
    longest = seen = 0
    for transcript in transcripts:
        seen += 1
        sample, reached = _sample(transcript, length, tokenizer, end)
        longest = max(longest, reached)
        if sample is not None and len(sample.prompt) + len(sample.plan) <= window:
            found.append(sample)
        if len(found) == count:
            break
    if not found:
        raise ConfigError(
            f"no planning call with {length} tokens or more that fits the window of {window}: the longest prompt of "
            f"{seen} transcripts has {longest}; use a shorter --length or longer histories"
        )
    return found


def digest(samples: Sequence[Sample]) -> str:
    """16 hexadecimal digits that stand for the tokens of the samples."""
    return hashlib.sha256(repr([(s.prompt, s.plan, s.protect) for s in samples]).encode()).hexdigest()[:16]


def _sample(transcript: Transcript, length: int, tokenizer: Any, end: int) -> tuple[Sample | None, int]:
    """The first call that is long enough, and the tokens of the longest prompt that was looked at."""
    plans = [(place, plan) for place, plan in sorted(transcript.plans) if plan.strip() and place > 0]
    if not plans:
        return None, 0

    def prompt(number: int) -> Any:
        return render_prompt(transcript.messages[: plans[number][0]], tokenizer)

    low, high = 0, len(plans) - 1
    last = len(prompt(high).input_ids)
    if last < length:
        return None, last
    while low < high:  # prompts grow from call to call
        middle = (low + high) // 2
        low, high = (low, middle) if len(prompt(middle).input_ids) >= length else (middle + 1, high)
    place, plan = plans[low]
    chosen = prompt(low)
    protect = chosen.token_spans(protected_spans(asked(transcript.messages[:place])))
    ids = encode_from(tokenizer, chosen.text + plan.strip(), len(chosen.text)).ids
    return Sample(tuple(chosen.input_ids), (*ids, end), tuple(protect)), last


def _plain(messages: Sequence[Any]) -> list[Message]:
    """Roles and contents, with the lines of user messages that state a goal protected.

    The last message of a call is protected whole, and so is the system message, as in an episode; how much an
    episode's graph protects besides, such as open failures, cannot be told from a transcript.
    """
    return [
        {"role": message["role"], "content": message["content"]}
        if message["role"] == "system"
        else {
            "role": message["role"],
            "content": message["content"],
            "protect": _goals(message["content"]) if message["role"] == "user" else [],
        }
        for message in messages
    ]


def _goals(content: str) -> list[tuple[int, int]]:
    """Spans of the lines that begin as a goal does."""
    mark = record_text("goal", "x")[:-1]
    spans, start = [], 0
    for line in content.split("\n"):
        if line.startswith(mark):
            spans.append((start, start + len(line)))
        start += len(line) + 1
    return spans


def asked(messages: Sequence[Message]) -> list[Message]:
    """The messages that a call sees; the last one, what is newest, is protected whole."""
    *before, last = messages
    return [*before, {"role": last["role"], "content": last["content"]}]
