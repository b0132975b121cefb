"""Samples for saliency, as token sequences: trajectories, chats, or plain text.

Every sample has *calls*: stretches of text that are predicted from a history. In a trajectory they are the expert's
plans, in a chat the answers, in plain text its last quarter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from erecap.context.prompt import record_text
from erecap.context.tokenize import Prompt, render_prompt
from erecap.errors import ConfigError, ModelError
from erecap.generation import Message
from erecap.training.collect.trajectories import EPISODES, META, read_trajectories, source_facts, transcript_name
from erecap.training.sequences import PlanSequence, PlanTarget, plan_sequence
from erecap.untrusted import parse_json

# How goals and commands begin their lines in a rendered context.
GOAL, COMMAND = (record_text(kind, " ").removesuffix(" ") for kind in ("goal", "action"))
Span = tuple[int, int]
SHORTEST = 16  # tokens; shorter texts hold no history to rank


@dataclass(frozen=True)
class ChatSpans:
    """Token spans of a chat that a session protects or evicts first, as `[start, end)`."""

    system: tuple[Span, ...]  # contents of system messages
    goals: tuple[Span, ...]  # lines of goals, in order
    plans: tuple[Span, ...]  # per call: the answer that was given
    seen: tuple[Span, ...]  # per call: the newest command and what came of it


@dataclass(frozen=True)
class Sample:
    """A token sequence, and the part of the history of its calls that is always kept."""

    sequence: PlanSequence
    head: int  # first tokens, with system message and goal
    newest: tuple[int, ...]  # per call: the newest message, or what stands for it, begins at this token
    spans: ChatSpans | None = None  # None for plain text

    @property
    def calls(self) -> int:
        """Number of calls that the sequence holds."""
        return len(self.newest)

    def rows(self, call: int) -> torch.Tensor:
        """`(n,)` tokens whose logits predict the text of `call`."""
        return self.sequence.rows[self.sequence.calls == call]

    def prompt(self, call: int) -> int:
        """Tokens of the history that `call` answers."""
        return int(self.rows(call)[0]) + 1


@dataclass(frozen=True)
class _Answer:
    message: int
    plan: str


def load_samples(
    sources: Sequence[Path], tokenizer: Any, ends: Collection[int], *, max_tokens: int, limit: int | None = None
) -> list[Sample]:
    """The samples of several sources, in order.

    Args:
        sources: each a trajectory folder (`erecap collect`), a `.jsonl` or `.json` file, a folder of such files, or a
            data set folder saved by the package `datasets`, which must then be installed. Rows have one of the fields
            `messages` (role and content), `text`, or `instruction` with `output` or `response` (and `input` or
            `context`).
        ends: ids that end an answer.
        max_tokens: longer samples are cut: trajectories and chats behind their last call that fits.
        limit: at most so many samples of each source.

    Raises:
        ConfigError: a source that is missing, damaged, or holds no usable sample.
        ModelError: the chat template cannot be used.
    """
    samples: list[Sample] = []
    for source in sources:
        found: list[Sample] = []
        for name, messages, targets, text in _rows(source):
            made = (
                text_sample(name, text, tokenizer, max_tokens)
                if text is not None
                else chat_sample(name, messages, targets, tokenizer, ends, max_tokens)
            )
            if made is not None:
                found.append(made)
            if limit is not None and len(found) == limit:
                break
        if not found:
            raise ConfigError(f"{source}: no sample of {SHORTEST} tokens or more with something to predict")
        samples += found
    return samples


def sources_hash(sources: Sequence[Path]) -> str:
    """SHA-256 over the bytes of everything that `load_samples` reads from these sources.

    Raises:
        ConfigError: a source that is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for source in sources:
        paths = [source / EPISODES] if (source / META).is_file() else _files(source)
        # A data set with several splits has a folder for each.
        paths += sorted(source.glob("*/*.arrow")) if (source / "dataset_dict.json").is_file() else []
        for path in paths:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"


def sources_facts(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """A card's description of each source: its name, and of a trajectory folder how it was collected."""
    return [source_facts(one) if (one / META).is_file() else {"folder": one.name} for one in sources]


def chat_sample(
    name: str,
    messages: Sequence[Message],
    targets: Sequence[PlanTarget],
    tokenizer: Any,
    ends: Collection[int],
    max_tokens: int,
) -> Sample | None:
    """A chat as sample; None where no call fits. Raises ModelError as `plan_sequence` does."""
    sequence = plan_sequence(name, messages, targets, tokenizer, ends, max_tokens)
    if sequence is None:
        return None
    prompt = render_prompt(messages, tokenizer, add_generation_prompt=False)
    transcript = sequence.transcript
    if prompt.input_ids[:transcript] != sequence.ids[:transcript].tolist():
        raise ModelError(f"{name}: the tokenizer joins text across messages, so its tokens cannot be told apart")
    head = 0
    for number, message in enumerate(messages[:2]):
        if message["role"] == "system":
            head = prompt.token_span(number, 0, len(message["content"]))[1]
        elif message["role"] == "user" and head:
            # The rendered context begins with the goal, on a line of its own.
            head = prompt.token_span(number, 0, len(message["content"].partition("\n")[0]))[1]
    calls = [int(call) for call in sequence.calls.unique()]
    newest = tuple(prompt.token_span(max(0, targets[call].message - 1), 0, 1)[0] for call in calls)
    spans = _chat_spans(prompt, messages, [targets[call].message for call in calls])
    return Sample(sequence, min(head, transcript), newest, spans)


def _chat_spans(prompt: Prompt, messages: Sequence[Message], answers: Sequence[int]) -> ChatSpans:
    """The spans of a chat; `answers` are the numbers of the messages that answered its calls."""
    system, goals, plans, seen = [], [], [], []
    for number, message in enumerate(messages):
        start = 0
        if message["role"] == "system":
            system.append(prompt.token_span(number, 0, len(message["content"])))
        for line in message["content"].split("\n"):
            if message["role"] == "user" and line.startswith(GOAL):
                goals.append(prompt.token_span(number, start, start + len(line)))
            start += len(line) + 1
    for answer in answers:
        plans.append(prompt.token_span(answer, 0, len(messages[answer]["content"])))
        newest = messages[answer - 1]["content"]
        begin = f"\n{newest}".rfind(f"\n{COMMAND}")  # in the first message there is none: what is seen follows the goal
        begin = begin if begin >= 0 else newest.find("\n") + 1
        seen.append(prompt.token_span(answer - 1, begin, len(newest)))
    return ChatSpans(tuple(system), tuple(goals), tuple(plans), tuple(seen))


def text_sample(name: str, text: str, tokenizer: Any, max_tokens: int) -> Sample | None:
    """Plain text as sample, its last quarter being the call; None where it is too short."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens])
    if len(ids) < SHORTEST:
        return None
    prompt = len(ids) * 3 // 4
    rows = torch.arange(prompt - 1, len(ids) - 1)
    sequence = PlanSequence(name, ids, rows, ids[prompt:], torch.zeros_like(rows), (), 0)
    return Sample(sequence, 0, (max(0, prompt - 16),))


Row = tuple[str, list[Message], Sequence[PlanTarget], str | None]  # name, chat, calls; or a text


def _rows(source: Path) -> Iterator[Row]:
    if (source / META).is_file():
        for one in read_trajectories(source):
            messages: list[Message] = [{"role": m.role, "content": m.content} for m in one.messages]
            yield transcript_name(source.resolve().name, one.suite, one.episode, one.agent), messages, one.targets, None
        return
    for where, row in _plain_rows(source):
        messages = _messages(where, row)
        if messages:
            found = [_Answer(n, m["content"]) for n, m in enumerate(messages) if n and m["role"] == "assistant"]
            if found:
                yield where, messages, found, None
        elif isinstance(row.get("text"), str):
            yield where, [], (), row["text"]
        else:
            raise ConfigError(
                f"{where}: fields {', '.join(sorted(row)) or 'none'}; allowed: messages, text, or instruction "
                "with output or response"
            )


def _messages(where: str, row: dict[str, Any]) -> list[Message]:
    if isinstance(row.get("messages"), list):
        try:
            return [{"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]]  # type: ignore[typeddict-item]
        except (KeyError, TypeError):
            raise ConfigError(f"{where}: a message without role and content") from None
    if not isinstance(row.get("instruction"), str):
        return []
    instances = row.get("instances")
    inner = instances[0] if isinstance(instances, list) and instances and isinstance(instances[0], dict) else row
    given = inner.get("input") or inner.get("context") or ""
    answer = inner.get("output") or inner.get("response")
    if not isinstance(answer, str) or not answer.strip():
        raise ConfigError(f"{where}: an instruction without output or response")
    question = f"{row['instruction']}\n{given}" if given else row["instruction"]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ConfigError(f"{source}: no such file or folder")
    return sorted(path for path in source.iterdir() if path.suffix in (".jsonl", ".json", ".arrow"))


def _plain_rows(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    paths = _files(source)
    if any(path.suffix == ".arrow" for path in paths) or (source / "dataset_dict.json").is_file():
        yield from _dataset_rows(source)
        return
    if not paths:
        raise ConfigError(f"{source}: holds no .jsonl, .json or .arrow file")
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        lines: Iterable[tuple[str, str]] = [(f"{path.name}:{n}", line) for n, line in enumerate(text.split("\n"), 1)]
        if path.suffix == ".json":
            lines = [(path.name, text)]
        for where, line in lines:
            if not line.strip():
                continue
            try:
                value = parse_json(line)
            except ValueError as error:
                raise ConfigError(f"{where}: not JSON: {error}") from error
            rows = value if isinstance(value, list) else [value]
            for number, row in enumerate(rows):
                if not isinstance(row, dict):
                    raise ConfigError(f"{where}: row {number} is no object with fields")
                yield (where if len(rows) == 1 else f"{where} row {number}"), row


def _dataset_rows(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise ConfigError(
            f"{source}: a data set in Arrow format needs the package datasets (pip install datasets); "
            "or export it with to_json"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(source))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: not a data set folder: {error}") from error
    parts = loaded.items() if hasattr(loaded, "items") else [("rows", loaded)]
    for split, part in parts:
        for number, row in enumerate(part):
            yield f"{source.name} {split} {number}", dict(row)
