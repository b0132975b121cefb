"""The conversation of a session: the chat, the tokens read of it, and those still to be read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from erecap.context.tokenize import Continuation
from erecap.decoding.special import SpecialTokens
from erecap.session.conversation.chat import ChatPart, SessionChat
from erecap.session.conversation.marks import agreement, answer_starts, encode_behind, mark_messages
from erecap.session.conversation.transcript import Mark, Transcript


class Conversation:
    """Turns a chat into tokens and remembers which of them were read; knows no keys and values.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        rewind_tokens: see `Transcript`.
        retokenize: see `SessionConfig`.
    """

    def __init__(self, tokenizer: Any, rewind_tokens: int | None = None, retokenize: bool = False) -> None:
        self.tokenizer = tokenizer
        self.retokenize = retokenize
        self.transcript = Transcript(rewind_tokens)
        self.chat = SessionChat(tokenizer)
        self.pending: list[int] = []  # ids of the last answer that were generated but not read
        self.previous: list[int] = []  # ids of the last answer, the draft of the next

    def fresh(self) -> Conversation:
        """A conversation with these settings of which nothing was read."""
        return Conversation(self.tokenizer, self.transcript.rewind_tokens, self.retokenize)

    def copy(self) -> Conversation:
        """An independent copy."""
        twin = copy.copy(self)
        twin.transcript, twin.pending = self.transcript.copy(), list(self.pending)
        return twin  # the chat and the previous answer are never changed in place

    def own_part(self) -> tuple[SessionChat, ChatPart]:
        """The session's own chat up to the header of an answer, and the part of it to be read.

        Raises:
            ValueError: there is no message.
        """
        if self.chat.empty:
            raise ValueError("nothing to answer; append messages first, or give the whole chat")
        chat, part = self.chat.going_on((), True)
        assert part is not None, "with a header there is always something to read"
        return chat, part

    def match(self, part: ChatPart) -> int:
        """Marks of the transcript that lie in the chat that `part` ends."""
        return self.transcript.matched(part.unseen, part.before)

    def mark_before(self, known: int) -> Mark | None:
        """The last of the first `known` marks; None: the beginning of the chat."""
        return self.transcript.marks[known - 1] if known else None

    def unread(self, part: ChatPart, known: int) -> tuple[list[int], list[Mark]]:
        """Ids of the chat after the first `known` marks, and a mark at the end of each message in it."""
        base, encoded, first = self.rest(part, known)
        return self.pending + encoded.ids, mark_messages(part, base, encoded, first, self.transcript.marks)

    def rest(self, part: ChatPart, known: int) -> tuple[Mark | None, Continuation, int]:
        """The last of the first `known` marks, the tokens of the chat after it, and the index of the first of these."""
        base = self.mark_before(known)
        # What is pending is part of the text before.
        return base, encode_behind(self.tokenizer, part, base), self.transcript.tokens + len(self.pending)

    def agreement(self, part: ChatPart, known: int) -> tuple[int, int, Continuation] | None:
        """Longest common beginning of the ids read and those of the chat's text (`marks.agreement`), if asked for.

        A message of which only the end was changed is then read again from there.
        """
        return agreement(self.tokenizer, part, self.transcript, known) if self.retokenize else None

    def cut(self, marks: int, tokens: int | None = None) -> None:
        """Roll back to the end of the first `marks` marks; injected corrections behind them become due.

        Args:
            tokens: keep ids up to this token index, behind the last of those marks; None: up to that mark.
        """
        transcript = self.transcript
        kept, corrections, due = transcript.parted(marks)
        # The unread rest of the last answer is still to be read, unless that answer goes too.
        pending = self.pending if marks >= len(transcript.marks) else []
        # One statement, without calls: an interrupt comes before it or after it.
        transcript.marks, transcript.corrections, transcript.due, self.pending = kept, corrections, due, pending
        transcript.trim(tokens)

    def protected_tokens(self, part: ChatPart, coming: Sequence[Mark]) -> list[tuple[int, int]]:
        """Protected characters of the chat as token indices `(start, end)`.

        Args:
            coming: marks of messages that are about to be read.
        """
        by_message = {mark.message: mark for mark in (*self.transcript.known_marks, *coming)}
        found = []
        for message, start, end in part.protected:
            mark = by_message.get(message)
            if mark is not None and mark.starts:
                low, high = mark.indices(start, end)
                found += [(low, high)] if low < high else []
        return found

    def remember(self, part: ChatPart, text: str, ids: list[int], stored: int, ends: Sequence[int]) -> None:
        """Keep the answer's own tokens as the next message, where they are exactly its text.

        Args:
            part: what was answered.
            ids: generated; the first `stored` of them were read. The transcript then says how many of these remain.
            ends: ids that end an answer.
        """
        content = list(ids)
        special = SpecialTokens(self.tokenizer)
        while content and (content[-1] in ends or content[-1] in special.silent):
            content.pop()
        # A stop text may begin inside the answer's last tokens: drop whole tokens until the text fits.
        while content and len(special.text(content)) > len(text):
            content.pop()
        said = content
        # A special token within it is not in the text, so the next call reads the text.
        if special.text(content) != text or not special.silent.isdisjoint(content):
            content = []
        first = self.transcript.tokens
        self.pending = []
        # What an interrupt leaves without a mark is rolled back by the next call.
        self.transcript.extend(content[:stored])
        if content:
            whole = part.before.copy().update(part.unseen).update(text)
            mark = Mark(
                part.count,
                whole.characters,
                whole.digest(),
                self.transcript.tokens,
                first=first,
                starts=answer_starts(self.tokenizer, content, text),
                generated=True,
            )
            marks, rest = [*self.transcript.marks, mark], content[stored:]
            self.transcript.marks, self.pending = marks, rest
        self.previous = said

    def tidy(self, stored: Sequence[int]) -> None:
        """Forget messages of which no token is stored; `stored`: rising token indices."""
        self.transcript.tidy(stored)
        self.chat.tidy({mark.message for mark in self.transcript.known_marks})
