"""Question answering with context: F1 and exact match of short answers, each prompt asked of every subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measure, measure_all
from erecap.evaluation.items import Items
from erecap.evaluation.qa_scores import best_f1, exact, first_line
from erecap.evaluation.questions import Question, cut_middle, digest_rows, spans
from erecap.evaluation.subjects import Subject, digest
from erecap.generation import JsonRow, Message
from erecap.serving.raw_text import as_lines

KIND = "qa"
KEYS = ("answer", "prompt_tokens", "cut")
MEASURES = (
    Measure("F1", "points", "f1", scale=100, better="higher", digits=1),
    Measure("exact match", "%", "exact", scale=100, better="higher", digits=1),
)


def answer_questions(
    subjects: Sequence[Subject],
    questions: Sequence[Question],
    items: Items,
    *,
    window: int,
    max_new_tokens: int,
    raw: bool,
    whole_answer: bool,
    say: Callable[[str], None],
) -> tuple[list[list[JsonRow | None]], JsonRow]:
    """Ask all questions of all subjects, greedily.

    Args:
        window: prompt and answer together, in tokens; longer prompts lose their middle.
        raw: the prompt as a text, without the chat template.
        whole_answer: all of an answer counts, not only its first line.

    Returns:
        For each subject its questions in order; and what was read.

    Raises:
        ConfigError: a window that leaves no room for a prompt, or a model without a chat template.
    """
    most = min(subject.window for subject in subjects)
    if not max_new_tokens < window <= most:
        raise ConfigError(f"--window: got {window}; allowed: {max_new_tokens + 1} to {most}, the model's window")
    tokenizer = subjects[0].opened.tokenizer
    if not raw and getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError("evaluate qa: the tokenizer has no chat template; --raw asks without one")
    around = 1 if raw else len(render_prompt([{"role": "user", "content": "."}], tokenizer).input_ids)
    room = window - max_new_tokens - around
    if room < 16:
        raise ConfigError(f"--window: {window} leaves {room} tokens for a prompt; allowed: 16 or more")
    prompts = [cut_middle(question.prompt, tokenizer, room) for question in questions]
    fitted = list(zip(questions, prompts, strict=True))

    def ask(subject: Subject, item: tuple[Question, tuple[str, int]]) -> JsonRow:
        question, (prompt, cut) = item
        messages = _messages(subject, question, prompt, raw)
        key = digest([messages, max_new_tokens, raw])
        found = items.get(subject.key, key)
        if found is None:
            answer = subject.answer(messages, max_new_tokens=max_new_tokens, raw=raw)
            usage = answer.usage
            values = {
                "question": question.name,
                "answer": answer.text,
                "prompt_tokens": usage.prompt_tokens,
                "cut": cut,
                "kept": usage.kept_tokens / max(1, usage.prompt_tokens) if subject.drops else None,
            }
            found = items.add(subject.key, key, values)
        said = found["answer"] if whole_answer else first_line(found["answer"])
        return {**found, "f1": best_f1(said, question.answers), "exact": float(exact(said, question.answers))}

    rows = measure_all(subjects, fitted, ask, say)
    read = {
        "questions": len(questions),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows[0] if row is not None),
        "cut_prompts": sum(cut > 0 for _, cut in prompts),
        "cut_tokens": sum(cut for _, cut in prompts),
        "digest": digest(digest_rows(questions)),
    }
    return rows, read


def _messages(subject: Subject, question: Question, prompt: str, raw: bool) -> list[Message]:
    protected = spans(question, prompt)
    if not raw:
        return [{"role": "user", "content": prompt, "protect": protected}]
    pieces, place = as_lines(prompt), 0
    for piece in pieces:
        end = place + len(piece["content"])
        piece["protect"] = [
            (max(start, place) - place, min(stop, end) - place)
            for start, stop in protected
            if max(start, place) < min(stop, end)
        ]
        place = end
    return pieces
