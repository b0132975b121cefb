"""Edits that a chat brings along: messages that are dropped behind a later one, dropped thinking, repositions.

They are part of what a call asks for, as the chat is, and not orders to a session: the same list twice changes nothing,
and a list without an edit undoes it. The model sees the chat as if it had been read under the list from its
beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from erecap.context.thinking import CLOSE, OPEN, thoughts_in
from erecap.errors import MessagesError
from erecap.generation import Message
from erecap.session.conversation.edit_record import Event
from erecap.session.conversation.transcript import Mark


@dataclass(frozen=True)
class ChatEdits:
    """The edit list of a chat. Messages are numbered from 0.

    Raises:
        ValueError: a message that is to be dropped before it is read, or numbers that are none or do not rise.
    """

    drop: Mapping[int, Sequence[int]] = field(default_factory=dict)  # message -> messages dropped behind it
    reposition: Sequence[int] = ()  # messages behind which the session repositions
    thinking: bool = False  # drop the thinking of each answer behind it

    def __post_init__(self) -> None:
        for message, dropped in self.drop.items():
            wrong = next((number for number in dropped if not 0 <= number <= message), None)
            if wrong is not None:
                raise ValueError(f"drop: got message {wrong} behind message {message}; allowed: 0 to {message}")
        if any(number < 0 for number in self.reposition) or list(self.reposition) != sorted(set(self.reposition)):
            raise ValueError(f"reposition: got {list(self.reposition)}; allowed: rising numbers of messages")

    def events(self, messages: Sequence[Message]) -> list[Event]:
        """The edits of the first messages, in order. Those behind messages that are still to come are left out.

        Raises:
            MessagesError: thinking is to be dropped, and the marks of a thought do not come in pairs.
        """
        gone: set[int] = set()
        found = []
        moved = set(self.reposition)
        thinking = {number for number, message in enumerate(messages) if self.thinking and thinks(message, number)}
        for number in sorted({*self.drop, *moved, *thinking}):
            if number >= len(messages):
                break
            dropped = tuple(sorted(set(self.drop.get(number, ())) - gone))
            gone.update(dropped)
            if dropped or number in moved or number in thinking:
                found.append(Event(number, dropped, number in thinking, number in moved))
        return found


def thinks(message: Message, number: int) -> bool:
    """Return True if a message of the assistant holds thoughts.

    Raises:
        MessagesError: marks that do not come in pairs.
    """
    content = message["content"]
    if message["role"] != "assistant" or (OPEN not in content and CLOSE not in content):
        return False
    try:
        return bool(thoughts_in(content))
    except ValueError as error:
        raise MessagesError(
            f"messages[{number}].content: {error}; its thinking cannot be told from its answer"
        ) from error


def thought_tokens(content: str, mark: Mark) -> list[tuple[int, int]]:
    """Token indices `(start, end)` of the thoughts of a message: tokens that hold nothing but what is between marks.

    Args:
        content: of the message.
        mark: its end, with the tokens of its content.
    """
    found = []
    for thought in thoughts_in(content):
        starts = mark.starts
        low, high = bisect_left(starts, thought.begin), bisect_left(starts, thought.stop)
        if high and (starts[high] if high < len(starts) else len(content)) > thought.stop:
            high = bisect_left(starts, starts[high - 1])  # the last token reaches across the mark
        if low < high:
            found.append((mark.first + low, mark.first + high))
    return found
