"""Render records as chat messages, with the span of every record.

The messages are prefix-stable: appending records extends the last message or adds new ones, and changes
nothing before. That is what lets a KV cache of an earlier call be used again. Only `protect` changes: it says
which spans matter now, and is not shown to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from erecap.context.prompt import NOTHING_DONE, record_text, system_text
from erecap.context.records import Context
from erecap.context.tokenize import render_prompt
from erecap.generation import Message

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class RecordSpan:
    """Span of a record: characters `[start, end)` of the content of `messages[message]`."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A context as chat messages."""

    messages: list[Message]
    spans: list[RecordSpan]  # one per record, in order of the records


def render(context: Context, *, max_steps: int = 5, system: str | None = None) -> Rendered:
    """Chat messages of a context, with `protect` spans from its graph.

    The layout is: system (format and command shapes), user (goal, first observation), assistant (plan 1),
    user (commands executed and what came of them), assistant (plan 2), and so on. Records between two plans
    share a user message, one below the other. A context that ends with a plan ends with an assistant message.

    Args:
        context: at least a goal.
        max_steps: the longest plan that the system message asks for, in commands.
        system: the system message; None: that of a planner alone.
    """
    turns = [_Turn("system", [system_text(context.templates, max_steps) if system is None else system])]
    spans: list[RecordSpan] = []
    for record in context.records:
        role: Role = "assistant" if record.kind == "plan" else "user"
        if role == "assistant" and turns[-1].role == "assistant":
            turns.append(_Turn("user", [NOTHING_DONE]))
        if role != turns[-1].role:
            turns.append(_Turn(role))
        start, end = turns[-1].add(record_text(record.kind, record.text))
        spans.append(RecordSpan(len(turns) - 1, start, end))
    protect: list[list[tuple[int, int]]] = [[] for _ in turns]
    protect[0].append((0, turns[0].length))
    for index in sorted(context.graph.protected()):
        span = spans[index]
        if span.start < span.end:
            protect[span.message].append((span.start, span.end))
    stale: list[list[tuple[int, int]]] = [[] for _ in turns]
    for index in sorted(context.graph.superseded()):
        stale[spans[index].message].append((spans[index].start, spans[index].end))
    observed: list[list[tuple[int, int]]] = [[] for _ in turns]
    for record, span in zip(context.records, spans, strict=True):
        if record.kind == "observation" and span.start < span.end:
            observed[span.message].append((span.start, span.end))
    messages: list[Message] = [
        {"role": turn.role, "content": "\n".join(turn.parts), "protect": kept, "stale": old, "observations": seen}
        for turn, kept, old, seen in zip(turns, protect, stale, observed, strict=True)
    ]
    return Rendered(messages, spans)


@dataclass
class _Turn:
    """A message that grows line by line."""

    role: Role
    parts: list[str] = field(default_factory=list)
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = len("\n".join(self.parts))

    def add(self, text: str) -> tuple[int, int]:
        """Append `text` on a line of its own; its span. Nothing is appended for no text."""
        if text:
            self.length += len(text) + bool(self.parts)
            self.parts.append(text)
        return self.length - len(text), self.length


def token_spans(rendered: Rendered, tokenizer: Any, add_generation_prompt: bool = True) -> list[tuple[int, int]]:
    """Token span `[start, end)` of every record in the tokenised prompt of `rendered.messages`.

    Raises:
        ModelError: as `erecap.context.tokenize.render_prompt`.
    """
    prompt = render_prompt(rendered.messages, tokenizer, add_generation_prompt)
    return [prompt.token_span(span.message, span.start, span.end) for span in rendered.spans]
