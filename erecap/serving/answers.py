"""Generations as the OpenAI API has them: whole, and in the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Protocol

from erecap.generation import Generation
from erecap.serving.answer_calls import calls_in
from erecap.serving.edit_fields import edit_usage
from erecap.serving.failures import ApiFailure
from erecap.serving.tool_calls import OPEN
from erecap.serving.tools import Tools

REASONS = {"stop": "stop", "length": "length", "cancelled": "stop", "deadline": "length"}


class Answer(Protocol):
    """The form of one answer. `evicted` are tokens of the conversation that are no longer stored."""

    waits: bool  # the text is sent when it is whole, for only then it is known what it is

    def whole(self, generation: Generation, evicted: int) -> dict[str, Any]:
        """The body of a response."""
        ...

    def first(self) -> list[str]:
        """The events that begin a stream."""
        ...

    def text(self, text: str) -> list[str]:
        """The events with a piece of text."""
        ...

    def last(self, generation: Generation, sent: str, evicted: int) -> list[str]:
        """The events with the rest after the text `sent`, and with the reason of the end."""
        ...

    def failed(self, failure: ApiFailure) -> list[str]:
        """The events that end a stream by a failure."""
        ...


class ChatAnswer:
    """One chat completion.

    Args:
        model: the name that the client asked for.
        tools: calls of these are looked for.
        with_usage: end a stream with the token counts.
        edited: the request brought edits of its chat, whose effect is counted.
    """

    def __init__(self, model: str, tools: Tools, with_usage: bool, edited: bool = False) -> None:
        self.waits = bool(tools.functions)
        self._tools, self._with_usage, self._edited = tools, with_usage, edited
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": model}

    def whole(self, generation: Generation, evicted: int) -> dict[str, Any]:
        """`chat.completion`."""
        message, reason = self._message(generation)
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(generation, evicted),
        }

    def first(self) -> list[str]:
        """The chunk that begins a stream."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def text(self, text: str) -> list[str]:
        """A chunk of text."""
        return [self._chunk({"content": text})]

    def last(self, generation: Generation, sent: str, evicted: int) -> list[str]:
        """The chunk with the rest after the text `sent`, and the reason of the end."""
        message, reason = self._message(generation)
        chunks = []
        if rest := (message["content"] or "")[len(sent) :]:
            chunks += self.text(rest)
        if message.get("tool_calls"):
            calls = [{"index": number, **call} for number, call in enumerate(message["tool_calls"])]
            chunks.append(self._chunk({"tool_calls": calls}))
        chunks.append(self._chunk({}, reason))
        if self._with_usage:
            counts = self._usage(generation, evicted)
            chunks.append(event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": counts}))
        return [*chunks, DONE]

    def failed(self, failure: ApiFailure) -> list[str]:
        """The failure as an event."""
        return [event(failure.body())]

    def _message(self, generation: Generation) -> tuple[dict[str, Any], str]:
        content, calls = split(generation, self._tools)
        if calls:
            return {"content": content, "tool_calls": calls}, "tool_calls"
        return {"content": content}, REASONS.get(generation.finish_reason, "stop")

    def _usage(self, generation: Generation, evicted: int) -> dict[str, Any]:
        counts = usage(generation, evicted)
        if self._edited:
            used = generation.usage
            details = edit_usage(counts["prompt_tokens_details"], used.skipped_tokens, used.moved_tokens)
            counts["prompt_tokens_details"] = details
        return counts

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def split(generation: Generation, tools: Tools) -> tuple[str | None, list[dict[str, Any]]]:
    """The text of an answer without its calls, and these."""
    text = generation.text
    # With `beside_schema` the grammar begins calls with the mark or, where that is no text, the line break after it.
    # No text in a schema begins so, and such a text may look like a call itself.
    if not tools.functions or (tools.beside_schema and not text.startswith((OPEN, "\n"))):
        return text, []
    if tools.strict and not tools.beside_schema and OPEN not in text:
        return text, []  # what looks like a call without marks follows no schema
    content, calls = calls_in(text, tools.names)
    return content, calls if tools.parallel else calls[:1]


def event(body: dict[str, Any], name: str | None = None) -> str:
    """A server-sent event.

    All but ASCII is escaped: some clients take U+2028, U+2029 and U+0085 for ends of lines, and then lose an event.
    """
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(body)}\n\n"


DONE = "data: [DONE]\n\n"


def usage(generation: Generation, evicted: int) -> dict[str, Any]:
    """Token counts; `cached_tokens` were found in the session, `evicted_tokens` are no longer stored.

    While nothing is evicted, the answer is the one that the whole chat gets when it is read anew. Where the server
    decodes with early exit, the counts have `completion_tokens_details`.
    """
    counts = generation.usage
    exits = {"exit_layers": list(counts.exit_layers), "exit_skipped_layers": counts.exit_skipped_layers}
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.reused_tokens, "evicted_tokens": evicted},
        **({"completion_tokens_details": exits} if counts.exit_bytes else {}),
    }
