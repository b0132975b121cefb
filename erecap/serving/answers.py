"""Generations as the OpenAI API has them: whole, and in chunks."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from erecap.generation import Generation
from erecap.serving.tools import calls_in

_REASONS = {"stop": "stop", "length": "length", "cancelled": "stop", "deadline": "length"}


class Answer:
    """One completion.

    Args:
        model: the name that the client asked for.
        tools: whether calls of tools are looked for.
    """

    def __init__(self, model: str, tools: bool) -> None:
        self.tools = tools
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": model}

    def whole(self, generation: Generation) -> dict[str, Any]:
        """`chat.completion`."""
        message, reason = self._message(generation)
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(generation)}

    def first(self) -> str:
        """The chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> str:
        """A chunk of text."""
        return self._chunk({"content": text})

    def last(self, generation: Generation, sent: str, with_usage: bool) -> list[str]:
        """The chunk with the rest after the text `sent`, and the reason of the end."""
        message, reason = self._message(generation)
        chunks = []
        if message.get("tool_calls"):
            calls = [{"index": number, **call} for number, call in enumerate(message["tool_calls"])]
            chunks.append(self._chunk({"tool_calls": calls}))
        elif rest := (message["content"] or "")[len(sent) :]:
            chunks.append(self.text(rest))
        chunks.append(self._chunk({}, reason))
        if with_usage:
            body = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(generation)}
            chunks.append(event(body))
        return [*chunks, "data: [DONE]\n\n"]

    def _message(self, generation: Generation) -> tuple[dict[str, Any], str]:
        reason = _REASONS.get(generation.finish_reason, "stop")
        if not self.tools:
            return {"content": generation.text}, reason
        content, calls = calls_in(generation.text)
        return ({"content": content, "tool_calls": calls}, "tool_calls") if calls else ({"content": content}, reason)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def event(body: dict[str, Any]) -> str:
    """A server-sent event.

    All but ASCII is escaped: some clients take U+2028, U+2029 and U+0085 for ends of lines, and then lose an event.
    """
    return f"data: {json.dumps(body)}\n\n"


def usage(generation: Generation) -> dict[str, Any]:
    """Token counts; `cached_tokens` were found in the session."""
    counts = generation.usage
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.reused_tokens},
    }
