"""Texts to look for exits in: collected transcripts, JSON Lines of chats, prompts or texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from erecap.context.tokenize import encode_from, render_chat, render_text
from erecap.decoding.exits.states import ExitText
from erecap.errors import ConfigError, MessagesError
from erecap.generation import AllowedTokens, JsonRow, Message
from erecap.untrusted import parse_json

EPISODES = "episodes.jsonl"  # of a folder of collected transcripts
SHORTEST = 16  # tokens of a plain text
ROLES = ("system", "user", "assistant", "tool")
FIELDS = {"messages": list, "turns": list, "text": str, "instruction": str, "output": str, "response": str}
Answer = Callable[[list[Message]], str]  # lets the model answer a chat


def texts_of(
    source: Path, tokenizer: Any, ends: Sequence[int], *, max_tokens: int, limit: int, answer: Answer | None = None
) -> list[ExitText]:
    """The texts of a source, in order.

    Args:
        source: a folder that `erecap collect` wrote, or a JSONL file whose rows have `messages` (role and content),
            `turns` (what a user says, turn by turn), `text`, or `instruction` with `output` or `response`.
        ends: ids that end an answer.
        max_tokens: longer texts are cut.
        limit: at most so many texts.
        answer: writes the answers to `turns`; None: rows with turns are refused.

    Raises:
        ConfigError: a source that is missing, damaged, or holds nothing to decode.
        MessagesError: a chat that the model's template does not take.
    """
    found: list[ExitText] = []
    for where, row in _rows(source):
        try:
            text = _text(where, row, tokenizer, ends, max_tokens, answer)
        except MessagesError as error:
            raise MessagesError(f"{where}: {error}") from error
        if text is not None:
            found.append(text)
        if len(found) == limit:
            break
    if not found:
        raise ConfigError(f"{source}: holds no text with something to decode")
    return found


def texts_hash(sources: Sequence[Path]) -> str:
    """SHA-256 over the bytes that `texts_of` reads of these sources. Raises as it does where one is missing."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(hashlib.sha256(_content(source)).digest())
    return f"sha256:{digest.hexdigest()}"


def chat_text(
    name: str,
    messages: Sequence[Message],
    tokenizer: Any,
    ends: Sequence[int],
    max_tokens: int,
    allowed: Sequence[AllowedTokens | None] = (),
) -> ExitText | None:
    """A chat in which the tokens of every answer, its end included, are decoded; None where no answer fits.

    Args:
        allowed: for each answer, the grammar that it was decoded under.
    """
    chat = render_chat(messages, tokenizer, False)
    ids: list[int] = []
    rows: list[int] = []
    sets: list[tuple[int, ...] | None] = []
    done = call = 0
    for number, message in enumerate(messages):
        if not number or message["role"] != "assistant":
            continue
        prompt = render_text(messages[:number], tokenizer, True)
        if not chat.text.startswith(prompt):
            return None  # the template rewrites what stands before
        ids += encode_from(tokenizer, chat.text[: len(prompt)], done).ids
        done = len(prompt)
        rest = encode_from(tokenizer, chat.text, done)
        last = chat.spans[number][1] - done
        written: list[int] = []
        for token, (low, _) in zip(rest.ids, rest.offsets, strict=True):
            written.append(token)
            if token in ends and low >= last:
                break
            if low > last:
                written.pop()
                break
        if len(ids) + len(written) > max_tokens:
            break
        rule = allowed[call] if call < len(allowed) else None
        for place, token in enumerate(written):
            choices = None if rule is None else tuple(rule(written[:place]))
            if choices is not None and token not in choices:
                rule = choices = None  # it was decoded in another way than the text says
            rows.append(len(ids) + place - 1)
            sets.append(choices)
        call += 1
    if not rows:
        return None
    whole = [*ids, *encode_from(tokenizer, chat.text, done).ids][: rows[-1] + 1]
    return ExitText(name, tuple(whole), tuple(rows), tuple(sets) if allowed else ())


def _text(
    where: str, row: JsonRow, tokenizer: Any, ends: Sequence[int], max_tokens: int, answer: Answer | None
) -> ExitText | None:
    messages = _messages(where, row)
    if messages is None and isinstance(row.get("turns"), list):
        if answer is None:
            raise ConfigError(f"{where}: has turns and no answers; allowed here: messages, text or instruction")
        if not row["turns"] or not all(isinstance(turn, str) for turn in row["turns"]):
            raise ConfigError(f"{where}: turns must be a list of texts, one or more")
        messages = []
        for turn in row["turns"]:
            messages.append({"role": "user", "content": turn})
            messages.append({"role": "assistant", "content": answer(list(messages))})
    if messages is not None:
        return chat_text(where, messages, tokenizer, ends, max_tokens)
    if not isinstance(row.get("text"), str):
        for name, kind in FIELDS.items():
            if name in row and not isinstance(row[name], kind):
                words = "a list" if kind is list else "a text"
                raise ConfigError(f"{where}: {name} is of type {type(row[name]).__name__}; allowed: {words}")
        raise ConfigError(
            f"{where}: fields {', '.join(sorted(row)) or 'none'}; allowed: messages, turns, text, or instruction "
            "with output or response"
        )
    ids = tokenizer(row["text"], add_special_tokens=False, verbose=False)["input_ids"][:max_tokens]
    if len(ids) < SHORTEST:
        return None
    # Its last quarter is decoded, the rest is what was read before.
    return ExitText(where, tuple(ids[:-1]), tuple(range(len(ids) * 3 // 4 - 1, len(ids) - 1)))


def _messages(where: str, row: JsonRow) -> list[Message] | None:
    if isinstance(row.get("messages"), list):
        if not row["messages"]:
            raise ConfigError(f"{where}: messages is empty; allowed: one or more")
        try:
            chat = [{"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]]
        except (KeyError, TypeError):
            raise ConfigError(f"{where}: a message without role and content") from None
        unknown = next((message["role"] for message in chat if message["role"] not in ROLES), None)
        if unknown is not None:
            raise ConfigError(f"{where}: a message has the role {unknown!r}; allowed: {', '.join(ROLES)}")
        return chat  # type: ignore[return-value]  # roles are checked
    written = row.get("output") or row.get("response")
    if not isinstance(row.get("instruction"), str) or not isinstance(written, str):
        return None
    given = row.get("input") or row.get("context")
    asked = f"{row['instruction']}\n{given}" if given else row["instruction"]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": written.strip()}]


def _file(source: Path) -> Path:
    return source / EPISODES if source.is_dir() else source


def _content(source: Path) -> bytes:
    """The bytes of a source. Raises ConfigError where it cannot be read."""
    path = _file(source)
    if source.is_dir() and not path.exists():
        raise ConfigError(f"{source}: holds no {EPISODES}; allowed: folders that `erecap collect` wrote, JSONL files")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _rows(source: Path) -> Iterator[tuple[str, JsonRow]]:
    name = _file(source).name
    for number, line in enumerate(_content(source).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = parse_json(line)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where}: not UTF-8 (byte {error.start} of the line)") from error
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: no object with fields")
        yield where, row
