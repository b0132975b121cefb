"""Requests whose host compacts or edits the chat itself, so that shortening it here would do it twice.

Fields of hosts: `context_management` (OpenAI's responses, Anthropic's messages) and `truncation` by itself (`auto`);
`drop_message`, `reposition` and `drop_rule`, which number the messages as they are. And in the chat itself what a
host's compaction left, which stands for all before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erecap.wrapping.answers import field_of

_EDITS = ("drop_message", "reposition", "drop_rule")
_TRUNCATIONS = ("auto", "last_messages")  # tokenizers have others, by which no host shortens a chat
_COMPACTED = ("compaction", "compaction_summary", "context_compaction")  # types of items, and of parts of a content


def hosted(messages: Any, request: Mapping[str, Any]) -> str | None:
    """Words on what leaves shortening to the host; None: nothing does.

    Args:
        messages: the chat, in the host's shape.
        request: what is sent beside it, or what a client calls its method with.
    """
    for fields in (request, request.get("extra_body"), request.get("body")):
        if isinstance(fields, Mapping):
            for name in ("context_management", "truncation", *_EDITS):
                if _asks(name, fields.get(name)):
                    return f"{name}: the host {'edits' if name in _EDITS else 'compacts'} this chat itself"
    if isinstance(messages, Sequence) and not isinstance(messages, (str, bytes)):
        for number, message in enumerate(messages):
            content = field_of(message, "content")
            parts = content if isinstance(content, (list, tuple)) else ()
            if any(not isinstance(one, str) and field_of(one, "type") in _COMPACTED for one in (message, *parts)):
                return f"message {number} is the host's own compaction of what was before it"
    return None


def _asks(name: str, value: Any) -> bool:
    """True if a field's value asks the host for something."""
    if name in _EDITS:
        return value is not None
    if name == "truncation":
        kind = value.get("type") if isinstance(value, Mapping) else value
        return kind in _TRUNCATIONS
    if isinstance(value, Mapping) and "edits" in value:
        return bool(value["edits"])
    return isinstance(value, (Mapping, list, tuple)) and bool(value)
