"""Fields by which a request edits its chat: `drop_message`, `reposition` and `drop_rule`, as AKV's servers have them.

They are lists that a request brings along, not orders: a server keeps none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from erecap.context.thinking import CLOSE, OPEN, thoughts_in
from erecap.serving.messages import refused
from erecap.session.chat_edits import ChatEdits

FIELDS = ("drop_message", "reposition", "drop_rule")
RULES = ("message_drop", "thinking_drop")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def read_edits(
    drop_message: Any, reposition: Any, drop_rule: Any, messages: Sequence[Mapping[str, Any]], shift: int
) -> ChatEdits | None:
    """The edits of a request; None where it has none of the fields.

    Args:
        messages: of the request, each one known to be readable.
        shift: messages that the server itself puts before them, which have no number.

    Raises:
        ApiFailure: a field that is none, with its place.
    """
    if drop_message is None and reposition is None and drop_rule is None:
        return None
    if drop_message is not None and drop_rule is not None:
        raise refused("drop_rule", "got it beside drop_message; allowed: one of them")
    drop, thinking = _dropped(drop_message, "drop_message"), False
    if drop_rule is not None:
        kind = drop_rule.get("type") if isinstance(drop_rule, dict) else drop_rule
        if not isinstance(drop_rule, dict) or not isinstance(kind, str) or kind not in RULES:
            raise refused("drop_rule.type", f"got {kind!r:.60}; this server knows: {', '.join(RULES)}")
        thinking = kind == "thinking_drop"
        known = {"type"} if thinking else {"type", "drop_messages"}
        for name in drop_rule:
            if name not in known:
                raise refused(f"drop_rule.{name:.60}", f"a rule of type {kind} does not have that, leave it out")
        if not thinking:
            if drop_rule.get("drop_messages") is None:
                raise refused("drop_rule.drop_messages", "missing; it must be an object as drop_message is")
            drop = _dropped(drop_rule["drop_messages"], "drop_rule.drop_messages")
    if thinking:
        _check_thinking(messages)
    return ChatEdits(
        {behind + shift: [number + shift for number in numbers] for behind, numbers in drop.items()},
        [number + shift for number in _repositions(reposition, len(messages))],
        thinking,
    )


def _dropped(given: Any, place: str) -> dict[int, list[int]]:
    """Messages by the number of the one behind which they are dropped."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise refused(place, f"got {given!r:.60}; wanted an object of lists of messages, by the number of another one")
    found = {}
    for key, numbers in given.items():
        behind = _number(key)
        if behind is None:
            raise refused(f"{place}.{key:.40}", "wanted the number of a message, from 0 up")
        if not isinstance(numbers, list):
            raise refused(f"{place}.{key}", f"got {numbers!r:.60}; wanted a list of numbers of messages")
        found[behind] = [_checked(number, behind, f"{place}.{key}[{at}]") for at, number in enumerate(numbers)]
    return found


def _checked(given: Any, behind: int, place: str) -> int:
    number = _number(given)
    if number is None:
        raise refused(place, f"got {given!r:.40}; wanted the number of a message, from 0 up")
    if number > behind:
        raise refused(place, f"got {number}; behind message {behind} only messages 0 to {behind} can be dropped")
    return number


def _repositions(given: Any, count: int) -> list[int]:
    """Numbers of messages, in order."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise refused("reposition", f"got {given!r:.60}; wanted a list of numbers of messages")
    last = -1
    for at, number in enumerate(given):
        if isinstance(number, bool) or not isinstance(number, int):
            raise refused(f"reposition[{at}]", f"got {number!r:.40}; wanted the number of a message")
        if not last < number < count:
            raise refused(f"reposition[{at}]", f"got {number}; wanted rising numbers of the {count} messages")
        last = number
    return given


def _number(given: Any) -> int | None:
    if isinstance(given, str) and _NUMBER.fullmatch(given):
        return int(given)
    whole = isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 10**18
    return given if whole else None


def _check_thinking(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse messages whose thinking cannot be told from their answer."""
    for number, message in enumerate(messages):
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        text = "\n".join(text for text in texts if isinstance(text, str))
        if message.get("role") == "assistant" and (OPEN in text or CLOSE in text):
            try:
                thoughts_in(text)
            except ValueError as error:
                raise refused(f"messages[{number}].content", f"{error}; drop_rule cannot tell its thinking") from error


def edit_usage(details: dict[str, int], skipped: int, moved: int) -> dict[str, int]:
    """Counts of the prompt's tokens for a request with edits, zeros included.

    `cached_tokens` were found and seen where they had stood, `repos_tokens` at other positions; `drop_skipped_tokens`
    had been read, and edits kept the request from seeing them.
    """
    seen = max(0, details["cached_tokens"] - skipped - moved)
    return {**details, "cached_tokens": seen, "drop_skipped_tokens": skipped, "repos_tokens": moved}
