"""The session's own chat, without its texts: all that appending to it needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erecap.context.protection import protected_spans
from erecap.context.tokenize import render_chat, render_text
from erecap.errors import ModelError
from erecap.generation import Message
from erecap.session.conversation.digest import RunningDigest
from erecap.session.conversation.incremental_render import ChatEnds, growth_of
from erecap.session.conversation.protection_spans import ChatClaims, Claims, Span

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatPart:
    """The end of a rendered chat: the new messages, and the text before them as far as it is known."""

    text: str
    spans: list[tuple[int, int]]  # per message in `text`: the characters that hold its content
    skipped: list[int]  # per message: leading characters of its content that the template left out
    offset: int  # characters of the chat before `text`
    first: int  # number in the chat of the message that the first span belongs to
    before: RunningDigest  # of the chat up to where nothing is known to be read
    claims: Claims
    protected: list[Span]

    @property
    def count(self) -> int:
        """Messages of the chat up to the end of this part."""
        return self.first + len(self.spans)

    @property
    def unseen(self) -> str:
        """The text after `before`."""
        return self.text[self.before.characters - self.offset :]


def whole_part(messages: Sequence[Message], tokenizer: Any, header: bool) -> ChatPart:
    """A whole chat, up to the header of the answer, or up to the end of its last message's content."""
    chat = render_chat(messages, tokenizer, header)
    text = chat.text if header else chat.text[: chat.spans[-1][1]]
    return ChatPart(text, chat.spans, chat.skipped, 0, 0, RunningDigest(), messages, protected_spans(messages))


class SessionChat:
    """A chat that is appended to, known by its ends, a digest of its text, and what its messages claim.

    Messages of the assistant at its end wait until one of another role follows (or an answer is wanted): some
    templates write the last answer in another way than earlier ones.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ends = ChatEnds()
        self._claims = ChatClaims()
        self._digest = RunningDigest()  # of the text up to the end of the last message that does not wait
        self._waiting: list[Message] = []
        self._answered = False  # what waits is an answer of the session itself
        self._messages: list[Message] | None = None  # all, for templates that may need them
        self._given: list[Message] = []  # a chat that a caller brought whole, not taken in yet

    @property
    def empty(self) -> bool:
        """True if there is no message."""
        return not (self._ends.count or self._given or self._waiting)

    def becomes(self, messages: Sequence[Message]) -> SessionChat:
        """Take over the chat that a caller brought. It is looked at only when something is appended."""
        chat = SessionChat(self._tokenizer)
        chat._given = list(messages)
        return chat

    def answered(self, text: str) -> SessionChat:
        """Return this chat followed by an answer of the session's own."""
        chat = self.copy()
        chat._waiting, chat._answered = [{"role": "assistant", "content": text}], True
        return chat

    def going_on(
        self, new: Sequence[Message], header: bool, stale: Sequence[Span] = ()
    ) -> tuple[SessionChat, ChatPart | None]:
        """The chat with `new` messages, and the part of it to be read; None where there is none yet.

        Where `new` begins with a message of the assistant, or is empty and `header` is asked for, it takes the place
        of the session's own answer.

        Args:
            header: up to the header of the next answer; else up to the end of a message's content.
            stale: characters `(message, start, end)` of earlier messages that are stale now.

        Raises:
            ConfigError: spans that do not lie in their messages.
            ModelError: a template that refuses the chat, or that rewrites what was read.
        """
        chat = self._taken_in()
        chat._claims.mark_stale(stale)
        kept = chat._waiting
        if chat._answered and (header if not new else new[0]["role"] == "assistant"):
            kept = []
        due = [*kept, *(message.copy() for message in new)]
        done = len(due)
        while not header and done and due[done - 1]["role"] == "assistant":
            done -= 1
        chat._waiting, chat._answered = due[done:], chat._answered and not new and not header
        if not done and not header:
            return chat, None
        return chat, chat._read(due[:done], header)

    def _taken_in(self) -> SessionChat:
        """A copy that has looked at the chat that a caller brought."""
        if not self._given:
            return self.copy()
        chat = SessionChat(self._tokenizer)
        done = len(self._given)
        while done and self._given[done - 1]["role"] == "assistant":
            done -= 1
        if done:
            chat._read(self._given[:done], False)
        chat._waiting, chat._answered = [*self._given[done:], *self._waiting], self._answered
        return chat

    def _read(self, new: list[Message], header: bool) -> ChatPart:
        """Take `new` in, and render what there is to read of it."""
        growth = growth_of(self._tokenizer)
        if not self._ends.count and (growth.rewrites or growth.triggers):
            self._messages = []
        if self._messages is None or not growth.rewritten([*self._messages, *new]):
            part = self._continuation(new, header)
        else:
            if not growth.rewrites and not growth.rewritten(self._messages):
                _log.warning(
                    "a message holds text that makes the chat template rewrite earlier ones: the whole chat is "
                    "rendered at every call from now on"
                )
            part = whole_part([*self._messages, *new], self._tokenizer, header)
        if self._messages is not None:
            self._messages = [*self._messages, *new]
        for message in new:
            self._ends.add(message)
            self._claims.add(message)
        if new:
            end = part.offset + part.spans[-1][1]
            before = part.before.copy()
            self._digest = before.update(part.text[before.characters - part.offset : end - part.offset])
        return ChatPart(
            part.text, part.spans, part.skipped, part.offset, part.first, part.before,
            self._claims.messages, self._claims.spans(),
        )  # fmt: skip

    def _continuation(self, new: list[Message], header: bool) -> ChatPart:
        """The part with `new`, rendered behind a stand-in for the chat so far."""
        known, left_out = self._ends.stand_in()
        chat = render_chat([*known, *new], self._tokenizer, header)
        text = chat.text if header else chat.text[: chat.spans[-1][1]]
        start = chat.spans[len(known) - 1][1] if known else 0
        if known and not render_text(known, self._tokenizer, False).startswith(chat.text[:start]):
            raise ModelError(
                "the chat template writes earlier messages differently now that others follow, so nothing can be "
                "appended; give the whole chat instead"
            )
        begin = chat.spans[left_out][0] if left_out else 0
        first = self._ends.count - (len(known) - left_out)
        offset = self._digest.characters - (start - begin)
        spans = [(low - begin, high - begin) for low, high in chat.spans[left_out:]]
        return ChatPart(text[begin:], spans, chat.skipped[left_out:], offset, first, self._digest.copy(), {}, [])

    def tidy(self, numbers: set[int]) -> None:
        """Forget the claims of messages other than `numbers`."""
        self._claims.tidy(numbers)

    def copy(self) -> SessionChat:
        """An independent copy."""
        chat = SessionChat(self._tokenizer)
        chat._ends, chat._claims, chat._digest = self._ends.copy(), self._claims.copy(), self._digest.copy()
        chat._waiting, chat._answered = list(self._waiting), self._answered
        chat._messages, chat._given = self._messages, self._given  # never changed in place
        return chat

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        chat = self._taken_in()
        return {
            "ends": [chat._ends.count, chat._ends.head, chat._ends.tail],
            "claims": chat._claims.to_json(),
            "digest": chat._digest.to_json(),
            "waiting": chat._waiting,
            "answered": chat._answered,
            "messages": chat._messages,
        }

    @classmethod
    def from_json(cls, tokenizer: Any, values: dict[str, Any]) -> SessionChat:
        """The chat that `to_json` described."""
        chat = cls(tokenizer)
        chat._ends = ChatEnds(*values["ends"])
        chat._claims = ChatClaims.from_json(values["claims"])
        chat._digest = RunningDigest.from_json(values["digest"])
        chat._waiting, chat._answered = values["waiting"], values["answered"]
        chat._messages = values["messages"]
        return chat
