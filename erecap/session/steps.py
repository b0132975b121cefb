"""What the calls of a session are made of: going back to what a chat shares, reading the rest, keeping answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.budget import Budget
from erecap.context.fit import fit_messages
from erecap.context.tokenize import ChatText, encode_from, render_prompt
from erecap.engines.transformers import TransformersEngine
from erecap.generation import Decision, Message, PromptPiece, Usage
from erecap.session.automatic import make_room
from erecap.session.conversation.chat import ChatPart, SessionChat, whole_part
from erecap.session.conversation.marks import agreement, answer_starts, encode_behind, mark_messages
from erecap.session.conversation.protection_spans import numbered
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.trace import trace_pieces


class SessionParts:
    """The state of a `ReplanSession` and the steps of its calls; nothing in here is called from outside."""

    model: Any
    tokenizer: Any
    budget: Budget
    _reader: TransformersEngine
    _transcript: Transcript
    _chat: SessionChat
    _retokenize: bool
    _previous: list[int]

    @property
    def cache(self) -> Any:
        """The `PrunedCache` behind the session."""
        return self._reader.cache

    def _go_back(self, marks: int, reread: bool = False, tokens: int | None = None) -> None:
        """Forget what was read after the first `marks` marks; corrections among it are read again if asked to.

        Args:
            tokens: keep what was read up to this place behind those marks.
        """
        if marks == len(self._transcript.marks) and self._transcript.ends_with_mark(self.cache.get_seq_length()):
            return
        # The unread rest of the last answer is still due, unless that answer goes too.
        pending = self._reader.pending if marks == len(self._transcript.marks) else []
        lost = self._transcript.cut(marks, tokens)
        if tokens is None or self._transcript.tokens != self.cache.get_seq_length():
            self._reader.back_to(self._transcript.tokens)
        self._reader.pending = pending
        if lost and reread:
            self._reader.read_overlay(lost)
            self._transcript.overlay(lost)

    def _take(self, part: ChatPart) -> int:
        """Read a part that ends with a message's content; returns the tokens read."""
        try:
            ids, marks, _ = self._enter(part, self._transcript.matched(part.unseen, part.before))
            if ids:
                with self._reader.attached():
                    self._reader.prefill(ids, marks, self._transcript, part.claims, part.protected, 0)
        except BaseException:
            self._go_back(len(self._transcript.marks))
            raise
        self._reader.enforce(self._transcript, part.claims, part.protected)
        return len(ids)

    def _fit(self, messages: Sequence[Message], max_new_tokens: int) -> tuple[SessionChat, ChatPart, int, int]:
        """The part to read of a whole chat, cut to the window; and how many messages and tokens that cost.

        With a budget the session outlives the window, and nothing is cut; except where an automatic one finds that
        positions cannot be closed up.
        """
        chat, part = self._chat.becomes(messages), whole_part(messages, self.tokenizer, header=True)
        limit = self._reader.window - max_new_tokens
        if self._reader.outlives_window or self._fits(part, limit):
            return chat, part, 0, 0

        def count(some: Sequence[Message]) -> int:
            return len(render_prompt(some, self.tokenizer).input_ids)

        fitted = fit_messages(messages, count, limit)
        part = whole_part(fitted.messages, self.tokenizer, header=True)
        return self._chat.becomes(fitted.messages), part, fitted.dropped, fitted.truncated_tokens

    def _fits(self, part: ChatPart, limit: int) -> bool:
        """Whether what is stored and what is new take at most `limit` positions."""
        known = self._transcript.matched(part.unseen, part.before)
        base = self._transcript.marks[known - 1] if known else None
        place = base.characters if base else 0
        whole = known == len(self._transcript.marks)
        used = (base.tokens if base else 0) + (len(self._reader.pending) - self._reader.shift if whole else 0)
        # Bytes bound tokens from above, so that short texts need not be tokenised to know that they fit.
        if used + len(part.text[place:].encode("utf-8")) <= limit:
            return True
        return used + len(encode_from(self.tokenizer, part.text, place).ids) <= limit

    def _enter(self, part: ChatPart, known: int, answering: bool = False) -> tuple[list[int], list[Mark], int]:
        """Forget what does not belong to the chat; ids and marks of what is left to read, and tokens that stay.

        Args:
            answering: leave something to read, for the logits, where the template writes nothing before an answer.
        """
        end = part.offset + len(part.text)
        while answering and known and self._transcript.marks[known - 1].characters == end:
            known -= 1
        agreed = agreement(self.tokenizer, part, self._transcript, known) if self._retokenize else None
        if agreed is None:
            reused = self._transcript.marks[known - 1].tokens if known else 0
            self._go_back(known, reread=True)
            return *self._tokenize(part, known), reused
        number, same, encoded = agreed
        base = self._transcript.marks[number - 1] if number else None
        first = base.tokens if base else 0
        same = min(same, len(encoded.ids) - answering)
        marks = mark_messages(part, base, encoded, first, self._transcript.marks)
        reused = first + same
        self._go_back(number, reread=True, tokens=reused)
        self._reader.pending = []  # what it was is among the new ids, as the text has it
        moved = self._transcript.tokens - reused  # overlays that were read again come before the rest
        if moved:
            marks = mark_messages(part, base, encoded, first + moved, ())
        self._transcript.extend((), [mark for mark in marks if mark.tokens <= reused])
        return encoded.ids[same:], [mark for mark in marks if mark.tokens > reused], reused

    def _tokenize(self, part: ChatPart, known: int) -> tuple[list[int], list[Mark]]:
        """Ids of the chat after the first `known` marks, and a mark at the end of each message in it."""
        base = self._transcript.marks[known - 1] if known else None
        pending = self._reader.pending  # generated by the last call, not read yet, and part of the text before
        encoded = encode_behind(self.tokenizer, part, base)
        first = self._transcript.tokens + len(pending)
        return pending + encoded.ids, mark_messages(part, base, encoded, first, self._transcript.marks)

    def _own_part(self) -> ChatPart:
        if self._chat.empty:
            raise ValueError("nothing to answer; append messages first, or give the whole chat")
        part = self._chat.going_on((), True)[1]
        assert part is not None, "with a header there is always something to read"
        return part

    def _make_room(self, tokens: int, part: ChatPart) -> None:
        """Evict under an automatic budget where `tokens` tokens outside of any call would not fit."""
        if self.budget.automatic:
            # The room for an answer is free; only what is longer needs more.
            more = max(0, tokens - self._reader.room)
            make_room(self._reader, more, self._transcript, part.claims, part.protected, ())

    def _traced(self, part: ChatPart) -> tuple[PromptPiece, ...]:
        contents = [message["content"] for _, message in sorted(numbered(part.claims).items())]
        chat = ChatText(part.text, part.spans, part.skipped)
        return trace_pieces(chat, contents, self._transcript.known_marks, self.cache)

    def _tidy(self) -> None:
        """Forget what is known of messages of which nothing is stored; done now and then, for it looks at all of it."""
        if self._transcript.wants_tidying:
            self._transcript.tidy(self.cache.stored_index().tolist())
            self._chat.tidy({mark.message for mark in self._transcript.known_marks})

    def _why_dropped(self, decision: Decision | None, usage: Usage) -> str | None:
        """Why something of the chat was dropped since the last answer, in words; None: nothing was."""
        reader = self._reader
        because, reader.dropped_because = reader.dropped_because, None
        if because is None and decision is not None and usage.evicted_tokens:
            because = decision.reason
        if usage.overflow_messages or usage.truncated_tokens:
            because = f"the chat and its answer pass the window of {reader.window:,}, so text was left out"
            if reader.why_fixed is not None:
                because += f"; nothing is evicted instead, as {reader.why_fixed}"
        return because

    def _prune_seconds(self) -> float:
        return self.cache.prune_seconds + self._reader.evict_seconds

    def _sources(self, draft: str | None, new_ids: list[int]) -> list[list[int]]:
        given = self.tokenizer(draft, add_special_tokens=False)["input_ids"] if draft else []
        return [given, self._previous, new_ids]

    def _remember(self, part: ChatPart, text: str, ids: list[int], unread: int, ends: Sequence[int]) -> None:
        """Keep the answer's own tokens as the next message, where they are exactly its text."""
        content = list(ids)
        while content and content[-1] in ends:
            content.pop()
        # A stop text may begin inside the answer's last tokens: drop whole tokens until the text fits.
        while content and len(self.tokenizer.decode(content, skip_special_tokens=True)) > len(text):
            content.pop()
        stored = len(ids) - unread
        self._previous = content
        if self.tokenizer.decode(content, skip_special_tokens=True) != text:
            content = []
        if len(content) < stored:
            self._reader.take_back(stored - len(content))
        self._reader.pending = content[stored:] if len(content) > stored else []
        first = self._transcript.tokens
        self._transcript.extend(content[:stored])
        if content:
            whole = part.before.copy().update(part.unseen).update(text)
            mark = Mark(
                part.count,
                whole.characters,
                whole.digest(),
                self._transcript.tokens,
                first=first,
                starts=answer_starts(self.tokenizer, content, text),
                generated=True,
            )
            self._transcript.extend((), [mark])
