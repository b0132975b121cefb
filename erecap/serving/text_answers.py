"""Answers of `/v1/completions`."""

from __future__ import annotations

import time
import uuid
from typing import Any

from erecap.generation import Generation
from erecap.serving.answers import DONE, REASONS, event, usage
from erecap.serving.failures import ApiFailure


class TextAnswer:
    """One continuation of a text.

    Args:
        model: the name that the client asked for.
        with_usage: end a stream with the token counts.
    """

    waits = False

    def __init__(self, model: str, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex[:24]}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, generation: Generation, evicted: int) -> dict[str, Any]:
        """`text_completion`."""
        reason = REASONS.get(generation.finish_reason, "stop")
        return {**self._head, "choices": [_choice(generation.text, reason)], "usage": usage(generation, evicted)}

    def first(self) -> list[str]:
        """Nothing: the first piece of text begins the stream."""
        return []

    def text(self, text: str) -> list[str]:
        """A chunk of text."""
        return [event({**self._head, "choices": [_choice(text, None)]})]

    def last(self, generation: Generation, sent: str, evicted: int) -> list[str]:
        """The rest after the text `sent`, with the reason of the end."""
        reason = REASONS.get(generation.finish_reason, "stop")
        chunks = [event({**self._head, "choices": [_choice(generation.text[len(sent) :], reason)]})]
        if self._with_usage:
            chunks.append(event({**self._head, "choices": [], "usage": usage(generation, evicted)}))
        return [*chunks, DONE]

    def failed(self, failure: ApiFailure) -> list[str]:
        """The failure as an event."""
        return [event(failure.body())]


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
