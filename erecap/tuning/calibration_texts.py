"""Token sequences of equal length to calibrate on: planner transcripts, general text, or several of them in turn."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.training.collect.trajectories import META, read_trajectories
from erecap.untrusted import parse_json

PLANNER = "planner"
WINDOWS = 4  # sequences cut from one household chat, the first with the system message
TURN_TOKENS = 100  # of an observation in a household chat
WALKS = 10_000  # household chats of one seed at most, so that two seeds share none
Ids = tuple[int, ...]


@dataclass(frozen=True)
class TextSource:
    """Origin of some of the sequences."""

    name: str  # `planner`, or the last part of a path
    kind: str  # household games, trajectories, text
    count: int  # sequences
    digest: str  # 16 hexadecimal digits over their tokens


class CalibrationIds(list[Ids]):
    """Sequences of token ids; of several sources in turn, so that every beginning of the list holds all of them.

    Attributes:
        sources: in order; sequence `n` is of source `n % len(sources)`.
        digest: 16 hexadecimal digits over all tokens.
    """

    def __init__(self, by_source: Sequence[tuple[str, str, Sequence[Ids]]]) -> None:
        longest = max(len(ids) for _, _, ids in by_source)
        super().__init__(ids[n] for n in range(longest) for _, _, ids in by_source if n < len(ids))
        self.sources = tuple(TextSource(name, kind, len(ids), digest_of(ids)) for name, kind, ids in by_source)
        self.digest = digest_of(self)

    def facts(self) -> list[dict[str, Any]]:
        """The sources as JSON values, for the head of a result."""
        return [dict(vars(source)) for source in self.sources]


def calibration_ids(
    source: str | Path | Sequence[str | Path], tokenizer: Any, *, count: int = 64, length: int = 256, seed: int = 0
) -> CalibrationIds:
    """`count` sequences of `length` tokens; none repeats another, and each source gives an equal share.

    Sources:

    - `planner`: chats of walks through household games of the training floor plans, as a planner reads them;
    - a folder of `erecap collect`: its chats;
    - a file: each line of a `.jsonl` is a text, or an object with `messages`, `text`, or an instruction with its
      instances; any other file is one text. Texts are shuffled, and put behind one another with an end of text between.

    Raises:
        ConfigError: a number out of range; no such source, one that cannot be read, or one with too few tokens.
        EnvironmentUnavailable: the household simulator is missing.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    for name, value, least in (("count", count, len(sources)), ("length", length, 2), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"calibration {name}: got {value}; allowed: {least} or more")
    if not sources or len({str(one) for one in sources}) < len(sources):
        raise ConfigError("calibration texts: name one source or more, each once")
    shares = [count // len(sources) + (number < count % len(sources)) for number in range(len(sources))]
    found = []
    for one, share in zip(sources, shares, strict=True):
        kind, stream = _open(one, tokenizer, length, seed)
        ids = list(islice(_unlike(stream), share))
        if len(ids) < share:
            raise ConfigError(
                f"calibration texts: {one} has {len(ids)} sequences of {length} tokens, {share} are needed; "
                "use fewer or shorter ones"
            )
        found.append((Path(one).name, kind, ids))
    return CalibrationIds(found)


def digest_of(sequences: Sequence[Ids]) -> str:
    """16 hexadecimal digits that stand for token sequences."""
    return hashlib.sha256(repr([tuple(ids) for ids in sequences]).encode()).hexdigest()[:16]


def _open(source: str | Path, tokenizer: Any, length: int, seed: int) -> tuple[str, Iterator[Ids]]:
    path = Path(source)
    if str(source) == PLANNER:
        return "household games", _walks(tokenizer, length, seed)
    if path.is_dir():
        if not (path / META).is_file():
            raise ConfigError(f"calibration texts: {path} holds no {META}; `erecap collect` makes such a folder")
        chats = [[dict(message) for message in found.messages] for found in read_trajectories(path)]
        random.Random(seed).shuffle(chats)
        return "trajectories", _spread((_chat_ids(chat, tokenizer) for chat in chats), length, random.Random(seed))
    if not path.is_file():
        raise ConfigError(f"calibration texts: got {str(source)!r}; allowed: {PLANNER}, a file, or a collected folder")
    texts = list(_texts(path))
    random.Random(seed).shuffle(texts)
    return "text", _windows(_joined(texts, tokenizer), length)


def _walks(tokenizer: Any, length: int, seed: int) -> Iterator[Ids]:
    """Cut household chats, each of a walk of its own, into `WINDOWS` sequences."""
    from erecap.bench.replan.history import Walk

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    for number in range(WALKS):
        with Walk(seed * WALKS + number, "train") as walk:
            messages = walk.start()
            while count(messages) < WINDOWS * length:
                messages += walk.turn(TURN_TOKENS, count)
        yield from islice(_windows(_chat_ids(messages, tokenizer), length), WINDOWS)


def _unlike(sequences: Iterator[Ids]) -> Iterator[Ids]:
    """The sequences that were not seen before: chats share their system message."""
    seen: set[Ids] = set()
    for ids in sequences:
        if ids not in seen:
            seen.add(ids)
            yield ids


def _chat_ids(messages: Sequence[Any], tokenizer: Any) -> list[int]:
    return list(render_prompt(messages, tokenizer, add_generation_prompt=False).input_ids)


def _windows(ids: Sequence[int], length: int) -> Iterator[Ids]:
    """`ids` cut into sequences, one behind the other; the rest is left out."""
    for start in range(0, len(ids) - length + 1, length):
        yield tuple(ids[start : start + length])


def _spread(chats: Iterator[list[int]], length: int, choose: random.Random) -> Iterator[Ids]:
    """`WINDOWS` sequences of each chat, the first among them; when all chats have given theirs, the others."""
    others: list[Ids] = []
    for ids in chats:
        first, *rest = list(_windows(ids, length)) or [()]
        choose.shuffle(rest)
        yield from (sequence for sequence in (first, *rest[: WINDOWS - 1]) if sequence)
        others += rest[WINDOWS - 1 :]
    yield from others


def _joined(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """All texts as one, with the tokenizer's end of text after each."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [token for text in texts for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], *end]]


def _texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"calibration texts: {path} is not UTF-8") from error
    except OSError as error:
        raise ConfigError(f"calibration texts: {path} cannot be read: {error.strerror}") from error
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                text = _row_text(parse_json(line))
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise ConfigError(
                    f"calibration texts: {path}:{number}: no text ({error}); allowed: a text, or an object with "
                    "text, messages, or instruction"
                ) from error
            yield text


def _row_text(row: Any) -> str:
    """The text of a row: itself, its `text`, its messages, or its instruction with what follows it."""
    if isinstance(row, str):
        return row
    if "text" in row:
        parts = [row["text"]]
    elif "messages" in row:
        parts = [message["content"] for message in row["messages"]]
    else:
        instances = row.get("instances", [row])
        parts = [row["instruction"]]
        parts += [instance.get(part, "") for instance in instances for part in ("input", "output")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a part of it is no text")
    return "\n".join(part for part in parts if part)
