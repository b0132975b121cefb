"""Incremental rendering of a growing chat: the templates that allow it, and the ends of the chat that it needs.

A chat template is a program over all messages. Most write each message by itself, with a look at its neighbours and at
whether their number is odd or even. For those a stand-in, made of the first messages and the newest, lets the template
write the same text for new messages as the whole chat would. Whether a template is of that kind is tried out once, on
chats that contain the template's own words as well, because some act on them: they cut reasoning out of
earlier messages, say, once another message follows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from erecap.context.tokenize import render_chat, render_text
from erecap.errors import ModelError
from erecap.generation import Message

HEAD = 4  # at most so many first messages are kept, as a rule up to the first user message
TAIL = 3  # newest messages kept
_LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.S)
_ROLES = ("suauauaua", "uauauaua", "suuuauuau", "uuauuu", "suaausua")
_NAMES = {"s": "system", "u": "user", "a": "assistant"}
_log = logging.getLogger(__name__)


@dataclass
class ChatEnds:
    """The two ends of a chat, all that rendering its continuation needs."""

    count: int = 0
    head: list[Message] = field(default_factory=list)
    tail: list[Message] = field(default_factory=list)

    def add(self, message: Message) -> None:
        """The chat goes on with `message`."""
        self.count += 1
        if not self.tail and len(self.head) < HEAD and all(known["role"] != "user" for known in self.head):
            self.head.append(message)
        else:
            self.tail = [*self.tail, message][-TAIL:]

    def stand_in(self) -> tuple[list[Message], int]:
        """A short chat with the same two ends, and how many of its messages stand for the beginning.

        Those after them are the chat's newest, one right after the other. 0 where it is the whole chat.
        """
        if self.count == len(self.head) + len(self.tail):
            return [*self.head, *self.tail], 0
        # Roles alternate in many chats, and templates check that: what is left out must be of even number.
        left = self.count - len(self.head) - TAIL
        return [*self.head, *self.tail[left % 2 :]], len(self.head)

    def copy(self) -> ChatEnds:
        """An independent copy."""
        return ChatEnds(self.count, list(self.head), list(self.tail))


@dataclass(frozen=True)
class Growth:
    """A template's treatment of a growing chat."""

    rewrites: bool  # it changes what it wrote before, or looks further back than a stand-in shows
    triggers: tuple[str, ...] = ()  # texts in contents that make it do so

    def rewritten(self, messages: Sequence[Message]) -> bool:
        """Return True if a chat with these contents has to be rendered whole."""
        return self.rewrites or any(word in message["content"] for word in self.triggers for message in messages)


_known: WeakKeyDictionary[Any, tuple[str, Growth]] = WeakKeyDictionary()


def growth_of(tokenizer: Any) -> Growth:
    """Determine how the chat template of `tokenizer` treats a growing chat; tried out once for each template."""
    template = str(getattr(tokenizer, "chat_template", None))
    known = _known.get(tokenizer)
    if known is None or known[0] != template:
        known = _known[tokenizer] = (template, _try_out(tokenizer, template))
        if known[1].rewrites:
            _log.warning(
                "this chat template rewrites earlier messages: appending keeps all messages and renders all of them "
                "at every call"
            )
    return known[1]


def _try_out(tokenizer: Any, template: str) -> Growth:
    tried = [_grows(tokenizer, _chat(roles, style)) for roles in _ROLES for style in ("{}", " {}\n", "")]
    if False in tried or True not in tried:
        return Growth(rewrites=True)
    words = {one or other for one, other in _LITERAL.findall(template)}
    words = {word.encode("latin-1", "backslashreplace").decode("unicode_escape", "replace") for word in words}
    # The words of roles and of keys are in every template, and in no content would a template ask for white space.
    suspects = sorted(word for word in words if word.strip() and word not in {"role", "content", *_NAMES.values()})
    triggers = [word for word in suspects if not all(_grows(tokenizer, chat) for chat in _with(word, suspects))]
    return Growth(rewrites=False, triggers=tuple(triggers))


def _chat(roles: str, style: str) -> list[Message]:
    return [_message(role, style.replace("{}", f"w{n}")) for n, role in enumerate(roles)]


def _message(role: str, content: str) -> Message:
    return {"role": _NAMES[role], "content": content}  # type: ignore[typeddict-item]


def _with(word: str, others: Sequence[str]) -> list[list[Message]]:
    """Chats whose messages begin and end with `word`: all, every other one of the users, of the assistant."""
    rest = " ".join(others)
    roles = _ROLES[1]
    return [
        [_message(role, f"{word} w{n} {word}") for n, role in enumerate(roles)],
        [
            _message(role, f"{rest} w{n}" if role == "a" else f"{word} w{n} {word}" if n % 4 else f"w{n}")
            for n, role in enumerate(roles)
        ],
        [_message(role, f"{word} w{n} {word}" if n % 4 == 1 else f"w{n}") for n, role in enumerate(roles)],
    ]


def _grows(tokenizer: Any, chat: list[Message]) -> bool | None:
    """Return True if the stand-in tells each continuation of `chat`; None where the template refuses such a chat."""
    ends = ChatEnds()
    accepted = False
    for number, message in enumerate(chat[:-1]):
        ends.add(message)
        # Reading stops after messages of others, never after an answer: see `SessionChat`.
        if message["role"] == "assistant":
            continue
        before = chat[: number + 1]
        following = next((n for n in range(number + 1, len(chat)) if chat[n]["role"] != "assistant"), len(chat) - 1)
        for new, header in (([], True), (chat[number + 1 : following + 1], False)):
            try:
                known = render_chat(before, tokenizer, False)
                whole = render_text([*before, *new], tokenizer, header)
            except ModelError:
                continue
            accepted = True
            end = known.spans[-1][1]
            stand_in, _ = ends.stand_in()
            try:
                short = render_chat([*stand_in, *new], tokenizer, header)
            except ModelError:
                return False
            if whole[:end] != known.text[:end] or short.text[short.spans[len(stand_in) - 1][1] :] != whole[end:]:
                return False
    return accepted or None
