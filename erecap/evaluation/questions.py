"""Questions with their context, in LongBench's format, and the prompts that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.evaluation.texts import JSON_LINES, read_utf8
from erecap.untrusted import parse_json

_SHORT = "Only give me the answer and do not output any other words."
# Prompts as LongBench has them: for passages with a question, for examples before a question, and for an input that
# brings its own passage.
PASSAGES = (
    f"Answer the question based on the given passages. {_SHORT}\n\nThe following are given passages.\n",
    f"\n\nAnswer the question based on the given passages. {_SHORT}\n\nQuestion: {{input}}\nAnswer:",
)
EXAMPLES = (
    f"Answer the question based on the given passage. {_SHORT} The following are some examples.\n\n",
    "\n\n{input}",
)
OWN_PASSAGE = f"Answer the question based on the given passage. {_SHORT}\n\n"
QUESTION = "Question:"
FEW_SHOT = ("triviaqa",)  # values of `dataset` whose context are examples


@dataclass(frozen=True)
class Question:
    """A prompt in three parts, of which only the middle may be cut or dropped, and the answers that are correct."""

    name: str  # file and row
    head: str
    context: str
    tail: str
    answers: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return self.head + self.context + self.tail


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """The questions of a file: a JSON list of rows, or JSON Lines.

    A row has `input` (or `question`), `answers`, and its context in `context` or within `input`, before the last line
    that begins with `Question:`.

    Args:
        limit: at most this many, the first ones.

    Raises:
        ConfigError: a file that cannot be read, a damaged row, or a question without context: without it a score says
            what the model knows by heart, whatever was dropped.
    """
    rows = _rows(path, read_utf8(path))
    if not rows:
        raise ConfigError(f"{path}: holds no questions")
    return [_question(row, f"{path.name}:{number}") for number, row in enumerate(rows[:limit], start=1)]


def _rows(path: Path, content: str) -> list[Any]:
    lines = path.suffix in JSON_LINES or not content.lstrip().startswith("[")
    texts = [line for line in content.split("\n") if line.strip()] if lines else [content]
    found: list[Any] = []
    for number, text in enumerate(texts, start=1):
        try:
            value = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"{path}:{number if lines else 1}: not JSON ({error})") from error
        found += [value] if lines else value
    return found


def _question(row: Any, name: str) -> Question:
    if not isinstance(row, dict):
        raise ConfigError(f"{name}: a row is an object with input, context and answers, got {type(row).__name__}")
    asked, context = row.get("input") or row.get("question"), row.get("context") or ""
    answers = row.get("answers")
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(asked, str) or not isinstance(context, str):
        raise ConfigError(f"{name}: input and context: allowed are texts, and input must not be empty")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
        raise ConfigError(f"{name}: answers: allowed is a list of at least one text")
    if context.strip():
        head, tail = EXAMPLES if row.get("dataset") in FEW_SHOT else PASSAGES
        return Question(name, head, context, tail.replace("{input}", asked), tuple(answers))
    place = max(asked.rfind("\n" + QUESTION) + 1, 0)
    if not asked[:place].strip():
        raise ConfigError(
            f"{name}: the question has no context; give it in context, or in input before a line {QUESTION!r}"
        )
    return Question(name, OWN_PASSAGE, asked[:place], asked[place:], tuple(answers))


def cut_middle(text: str, tokenizer: Any, tokens: int) -> tuple[str, int]:
    """`text` with its middle cut out, as LongBench does, so that `tokens` tokens are left; and the tokens cut.

    Half of what is left are the first tokens, half the last ones.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    left = tokens
    while len(ids) > tokens and left > 1:
        half = left // 2
        shorter = tokenizer.decode(ids[:half], skip_special_tokens=True)
        shorter += tokenizer.decode(ids[len(ids) - half :], skip_special_tokens=True)
        again = len(tokenizer(shorter, add_special_tokens=False, verbose=False)["input_ids"])
        if again <= tokens:
            return shorter, len(ids) - again
        left -= again - tokens  # halves that were tokens apart may be more of them together
    return text, 0


def spans(question: Question, prompt: str) -> list[tuple[int, int]]:
    """Characters of a prompt, cut or not, that eviction and pruning spare: the instruction and the question."""
    head = min(len(question.head), len(prompt))
    tail = max(head, len(prompt) - len(question.tail))
    return [span for span in ((0, head), (tail, len(prompt))) if span[0] < span[1]]


def digest_rows(questions: Sequence[Question]) -> list[list[Any]]:
    """The questions as JSON values."""
    return [[question.prompt, list(question.answers)] for question in questions]
