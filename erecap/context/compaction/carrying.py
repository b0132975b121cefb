"""Carrying a compaction over to a later version of the conversation that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erecap.context.compaction.alignment import align, retold
from erecap.context.compaction.mask import JSON_MARKER, MARKER, exchanges, holds_protected, marker_for
from erecap.context.compaction.spans import KEYS
from erecap.generation import Message


@dataclass(frozen=True)
class Edited:
    """A message that is shown with other content, and the spans of that content."""

    content: str
    spans: Mapping[str, list[tuple[int, int]]]

    @classmethod
    def of(cls, message: Message) -> Edited:
        return cls(message["content"], {key: message[key] for key in KEYS if key in message})  # type: ignore[literal-required]

    def applied(self, message: Message) -> Message:
        return {**message, "content": self.content, **self.spans}  # type: ignore[typeddict-item]


def _gone(message: Message) -> Edited:
    """A message of which nothing is shown, unless it is no longer than its marker."""
    content = message["content"] or ""
    marker = marker_for(content)
    shown = marker if len(content) > len(marker) else content
    return Edited(shown, {"observations": [(0, len(shown))]})


# By number of a message: how it is shown, or None where it is left out. Others are shown as they were told.
Edits = dict[int, Edited | None]


def shown(messages: Sequence[Message], edits: Edits) -> list[Message]:
    """The messages as `edits` show them."""
    result = []
    for number, message in enumerate(messages):
        edited = edits.get(number, message)
        if edited is not None:
            result.append(edited.applied(message) if isinstance(edited, Edited) else message)
    return result


def edits_of(before: Sequence[Message], after: Sequence[Message], dropped: Sequence[int]) -> Edits:
    """The edits that made `after` of `before`, without the messages numbered `dropped`."""
    edits: Edits = dict.fromkeys(dropped)
    left = [number for number in range(len(before)) if number not in edits]
    for number, message in zip(left, after, strict=True):
        if message is not before[number]:
            edits[number] = Edited.of(message)
    return edits


def carried(
    edits: Edits, old: Sequence[bytes], old_roles: Sequence[str], new: Sequence[bytes], messages: Sequence[Message]
) -> tuple[Edits, list[int | None]]:
    """`edits` of the conversation with the keys `old`, as far as they hold for `messages` with the keys `new`.

    A message that both have is shown as before. One that was left out or blanked stays so where it is told in other
    words at the same place. Exchanges are left out whole or not at all, and so the newest one never is; what stands
    before the first exchange is blanked instead, since most servers want a user to begin.

    Returns:
        The edits, and the alignment that they were found by.
    """
    matches = align(old, new)
    result: Edits = {number: edits[at] for number, at in enumerate(matches) if at is not None and at in edits}
    for at, number in retold(matches, old_roles, [message["role"] for message in messages]):
        if at in edits and not holds_protected(messages[number]):
            edit = edits[at]
            if edit is None or edit.content in (MARKER, JSON_MARKER):
                result[number] = edit and _gone(messages[number])
    groups = exchanges(messages)
    newest = {len(messages) - 1, *(groups[-1] if groups else ())}
    inside = {number for group in groups for number in group}
    out = {number for number, edit in result.items() if edit is None}
    torn = {number for group in groups if not out.issuperset(group) for number in group if number in out}
    for number in list(result):
        role = messages[number]["role"]
        if number in newest or number in torn or role == "system":
            del result[number]
        elif number not in inside and result[number] is None:
            if messages[number].get("observations") == []:  # nothing in it may be cut: it may hold tags of turns
                del result[number]
            else:
                result[number] = _gone(messages[number])
    return result, matches
