"""Replace pieces of messages, and move the spans that name other text along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from erecap.generation import Message

Span = tuple[int, int]
KEYS = ("protect", "stale", "observations", "thoughts")


class Edit(NamedTuple):
    """Characters `[start, end)` of the content of a message become `text`."""

    message: int
    start: int
    end: int
    text: str

    @property
    def growth(self) -> int:
        return len(self.text) - (self.end - self.start)


def rewrite(messages: Sequence[Message], edits: Sequence[Edit], *, still_observed: bool = False) -> list[Message]:
    """`messages` with the edits made; messages without one are handed on as they are.

    Spans of a message's keys follow their text, and those that an edit touches go.

    Args:
        edits: none overlap.
        still_observed: a replacement of a whole observation is an observation, too.
    """
    by_message: dict[int, list[Edit]] = {}
    for edit in sorted(edits):
        by_message.setdefault(edit.message, []).append(edit)
    return [
        _rewritten(message, by_message[number], still_observed) if number in by_message else message
        for number, message in enumerate(messages)
    ]


def _rewritten(message: Message, edits: Sequence[Edit], still_observed: bool) -> Message:
    content, parts, done = message["content"], [], 0
    for edit in edits:
        parts += [content[done : edit.start], edit.text]
        done = edit.end
    # A copy: other keys that a host put on the message stay.
    result: Message = {**message, "content": "".join([*parts, content[done:]])}
    for key in KEYS:
        if key in message:
            own = [moved(span, edits) for span in message[key] if not _touched(span, edits)]  # type: ignore[literal-required]
            result[key] = own  # type: ignore[literal-required]
    replaced = [_place(edit, edits) for edit in edits if edit.text and _is_observation(edit, message)]
    if still_observed:
        result["observations"] = sorted([*result.get("observations", ()), *replaced])
    elif "observations" not in message:
        result["observations"] = []  # all of it was one observation, which is removed
    return result


def moved(span: Span, edits: Sequence[Edit]) -> Span:
    """The characters of a message that `span` covers after `edits` that do not touch it."""
    shift = sum(edit.growth for edit in edits if edit.end <= span[0])
    return span[0] + shift, span[1] + shift


def _place(edit: Edit, edits: Sequence[Edit]) -> Span:
    start = edit.start + sum(other.growth for other in edits if other.end <= edit.start and other != edit)
    return start, start + len(edit.text)


def _touched(span: Span, edits: Sequence[Edit]) -> bool:
    return any(edit.start < span[1] and span[0] < edit.end for edit in edits)


def _is_observation(edit: Edit, message: Message) -> bool:
    spans = message.get("observations")
    return (edit.start, edit.end) in spans if spans is not None else edit.end - edit.start == len(message["content"])
