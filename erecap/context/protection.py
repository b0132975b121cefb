"""Protected spans of a chat: characters that must survive pruning."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.errors import ConfigError
from erecap.generation import Message


def protected_spans(messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    """Spans `(message_index, start, end)` of characters that pruning must keep, in order of the messages.

    A message with a `protect` key says itself what to keep; an empty list means nothing. For the others the
    default rule holds: system messages, the first user message and the last message are kept whole.

    Raises:
        ConfigError: a span of a `protect` key does not lie inside its message's content.
    """
    first_user = next((i for i, message in enumerate(messages) if message["role"] == "user"), -1)
    spans: list[tuple[int, int, int]] = []
    for index, message in enumerate(messages):
        size = len(message["content"] or "")  # messages that call tools may have no text
        if "protect" in message:
            for start, end in message["protect"]:
                if not 0 <= start <= end <= size:
                    raise ConfigError(
                        f"message {index}: protect span ({start}, {end}) lies outside its {size} characters"
                    )
                if start < end:
                    spans.append((index, start, end))
        elif size and (message["role"] == "system" or index in (first_user, len(messages) - 1)):
            spans.append((index, 0, size))
    return spans
