"""Token indices of characters of a rendered chat: where each message ends, the template's own text included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.context.tokenize import Continuation, encode_from, render_chat
from erecap.errors import MessagesError
from erecap.generation import Message
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.transcript import Mark, Transcript


class Places:
    """Finds characters of a whole chat among its tokens: those that were read, and those that are about to be.

    Args:
        part: the whole chat.
        messages: its messages.
        base: the mark behind which the rest is about to be read; None: all of it is.
        encoded: the tokens of that rest.
        first: token index of the first of these.
    """

    def __init__(
        self,
        tokenizer: Any,
        part: ChatPart,
        messages: Sequence[Message],
        transcript: Transcript,
        base: Mark | None,
        encoded: Continuation,
        first: int,
    ) -> None:
        self._tokenizer, self._part, self._messages, self._transcript = tokenizer, part, messages, transcript
        self._base, self._encoded, self._first = base, encoded, first
        self._ends: dict[int, int] = {}

    def span(self, number: int) -> tuple[int, int]:
        """Token indices `(start, end)` of a message with the template's text around it. The first one begins the chat.

        Raises:
            MessagesError: the template does not tell where a message ends.
        """
        start = self.token(self.end(number - 1), number - 1) if number else 0
        return start, self.token(self.end(number), number)

    def end(self, number: int) -> int:
        """The character behind a message, its end mark and line break included.

        Raises:
            MessagesError: the template does not tell where it ends.
        """
        if number not in self._ends:
            self._ends[number] = message_end(self._part, self._messages, self._tokenizer, number)
        return self._ends[number]

    def token(self, character: int, number: int) -> int:
        """Index of the first token that begins at a character or behind it.

        Args:
            number: of the message that ends there.

        Raises:
            MessagesError: what was read there is not at hand any more.
        """
        begin = self._base.characters if self._base else 0
        if character >= begin:
            return self._first + sum(low < character - begin for low, _ in self._encoded.offsets)
        # Up to the end of the next message's content, since a token may reach into it.
        following = self._part.spans[number + 1][1] if number + 1 < len(self._part.spans) else len(self._part.text)
        text = self._part.text[: max(character, following)]
        transcript = self._transcript
        marks: list[Mark | None] = [m for m in transcript.known_marks if m.aligned and m.characters <= character]
        marks.sort(key=lambda mark: mark.tokens if mark else 0)
        for mark in reversed([None, *marks]):
            start, place = (mark.characters, mark.tokens) if mark else (0, 0)
            if place < transcript.forgotten:
                break
            encoded = encode_from(self._tokenizer, text, start)
            count = sum(low < character - start for low, _ in encoded.offsets)
            if transcript.since(place)[:count] == encoded.ids[:count]:
                return place + count
        raise MessagesError(
            f"messages[{number}]: its end cannot be found again among the tokens read; ask in a new chat"
        )

    def is_between(self, character: int) -> bool:
        """Return True if a token of the rest ends at a character, so that reading can go on from there."""
        begin = self._base.characters if self._base else 0
        before = [high for low, high in self._encoded.offsets if low < character - begin]
        return not before or before[-1] <= character - begin


def message_end(part: ChatPart, messages: Sequence[Message], tokenizer: Any, number: int) -> int:
    """The character of a whole chat behind a message, with what the template writes to end it.

    The template is asked for the chat up to this message: what it writes behind the content is the message's end, and
    what follows that in the whole chat belongs to the next message.

    Raises:
        MessagesError: the template refuses that chat, moves messages, or ends the message in another way.
    """
    end = part.spans[number][1]
    following = part.spans[number + 1][0] if number + 1 < len(part.spans) else len(part.text)
    problem = f"messages[{number}]: the chat template does not tell where it ends, so nothing can be edited there"
    try:
        chat = render_chat(messages[: number + 1], tokenizer, False)
    except MessagesError as error:
        raise MessagesError(f"{problem}: {error}") from error
    tail = chat.text[chat.spans[-1][1] :]
    if following < end or not part.text[end:following].startswith(tail):
        raise MessagesError(problem)
    return end + len(tail)
