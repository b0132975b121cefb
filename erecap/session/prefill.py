"""Prefill of a chat: roll back to the shared beginning, read the rest in chunks, evict between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from erecap.engines.protocol import SessionEngine
from erecap.session.automatic import make_room
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.conversation import Conversation
from erecap.session.conversation.marks import mark_messages
from erecap.session.conversation.transcript import Mark
from erecap.session.interrupt import Interrupt
from erecap.session.policy import SessionPolicy


class SessionPrefill:
    """Brings a conversation and an engine to the end of a chat together, under a policy."""

    def __init__(self, conversation: Conversation, policy: SessionPolicy, engine: SessionEngine) -> None:
        self.conversation = conversation
        self.policy = policy
        self.engine = engine
        self.again = 0  # stored tokens that the engine had to read again in the newest read

    def enter(
        self, part: ChatPart, known: int, answering: bool = False, anew: bool = False
    ) -> tuple[list[int], list[Mark], int]:
        """Roll back tokens that do not belong to the chat; ids and marks of what is left to read, and tokens reused.

        Args:
            known: marks that lie in the chat, see `Conversation.match`.
            answering: leave something to read, for the logits, where the template writes nothing before an answer.
            anew: read the whole chat again, whatever of it was read.
        """
        known = 0 if anew else known
        conversation, transcript = self.conversation, self.conversation.transcript
        end = part.offset + len(part.text)
        while answering and known and transcript.marks[known - 1].characters == end:
            known -= 1
        agreed = None if anew else conversation.agreement(part, known)
        if agreed is None:
            base = conversation.mark_before(known)
            reused = base.tokens if base else 0
            self.roll_back(known, reread=True)
            return *conversation.unread(part, known), reused
        number, same, encoded = agreed
        base = conversation.mark_before(number)
        first = base.tokens if base else 0
        same = max(0, min(same, len(encoded.ids) - answering))
        marks = mark_messages(part, base, encoded, first, transcript.marks)
        reused = first + same
        self.roll_back(number, reread=True, tokens=reused)
        conversation.pending = []  # what it was is among the new ids, as the text has it
        moved = transcript.tokens - reused  # corrections that were read again come before the rest
        if moved:
            marks = mark_messages(part, base, encoded, first + moved, ())
        transcript.extend((), [mark for mark in marks if mark.tokens <= reused])
        return encoded.ids[same:], [mark for mark in marks if mark.tokens > reused], reused

    def read(
        self,
        ids: Sequence[int],
        marks: Sequence[Mark],
        part: ChatPart,
        room: int,
        interrupt: Interrupt | None = None,
    ) -> np.ndarray:
        """Prefill `ids`, evicting between chunks, and note them in the transcript.

        Args:
            room: tokens that will be generated afterwards and must find positions.
            interrupt: may end the prefill between two chunks.

        Raises:
            Interrupted: by `interrupt`.

        Returns:
            Logits `(vocab,)` after the last token.
        """
        conversation, transcript, coming, noted = self.conversation, self.conversation.transcript, deque(marks), 0
        announced = self.again = 0  # tokens of chunks before the first new one, that one included
        # The rest of the last answer comes first; once read, it belongs to that answer's mark.
        settled = transcript.tokens + len(conversation.pending)

        def between_chunks(done: int, following: int) -> int | None:
            nonlocal noted, announced
            begun = done or announced
            if not done:
                self.again, announced = announced, announced + following
            if done:
                transcript.extend(ids[noted:done])
                noted = done
                if conversation.pending and transcript.tokens >= settled:
                    marks = transcript.settled(settled)
                    transcript.marks, conversation.pending = marks, []
                while coming and coming[0].tokens <= transcript.tokens:
                    transcript.extend((), [coming.popleft()])
                if following:
                    self.enforce(part, coming)
            if not following:
                return None
            if begun and interrupt is not None:
                interrupt.check()
            if self.policy.budget.automatic:
                rest = len(ids) - done
                following = make_room(self.policy, self.engine, rest, transcript, part, coming)
            last = done + following == len(ids)
            self.policy.find_positions(self.engine, following + (room if last else 0))
            return following

        prunes = self.policy.config.prune is not None
        protected = conversation.protected_tokens(part, coming) if prunes else None
        return self.engine.read(ids, between_chunks, protected=protected, scores=True)

    def take(self, part: ChatPart) -> int:
        """Read a part that ends with a message's content; returns the tokens read."""
        try:
            ids, marks, _ = self.enter(part, self.conversation.match(part))
            if ids:
                self.read(ids, marks, part, 0)
        except BaseException:
            self.roll_back(len(self.conversation.transcript.marks))
            raise
        self.enforce(part)
        return len(ids)

    def enforce(self, part: ChatPart, coming: Sequence[Mark] = ()) -> None:
        """Evict until every layer stores at most the budget; under an automatic one, until an answer fits.

        Args:
            coming: marks of messages that are not read to their end yet.

        Raises:
            BudgetError: system and goal alone exceed it.
        """
        transcript = self.conversation.transcript
        if self.policy.budget.automatic:
            make_room(self.policy, self.engine, 0, transcript, part, coming)
        else:
            self.policy.enforce(self.engine, transcript, part, coming)

    def make_room(self, tokens: int, part: ChatPart) -> None:
        """Evict under an automatic budget where `tokens` tokens outside of any call would not fit."""
        if self.policy.budget.automatic:
            # The room for an answer is free; only what is longer needs more.
            more = max(0, tokens - self.policy.room)
            make_room(self.policy, self.engine, more, self.conversation.transcript, part, ())

    def probe(self, ids: Sequence[int]) -> np.ndarray:
        """Logits `(len(ids), vocab)` of tokens that will be rolled back; finds positions for them if need be."""
        self.policy.find_positions(self.engine, len(ids))
        with self.engine.attached():
            return self.engine.verify(ids)

    def reread(self, ids: Sequence[int]) -> None:
        """Read `ids`, unpruned and outside of any call. The caller notes them in the transcript."""
        if ids:
            self.engine.read(ids, lambda _, following: self.policy.find_positions(self.engine, following))

    def settle(self) -> None:
        """Bring engine and transcript to the same end, where a call was broken off between the two."""
        transcript, engine = self.conversation.transcript, self.engine
        if engine.tokens == transcript.tokens:
            return
        if engine.tokens < transcript.tokens:
            self.conversation.cut(sum(mark.tokens <= engine.tokens for mark in transcript.marks))
        engine.rollback(transcript.tokens)

    def roll_back(self, marks: int, reread: bool = False, tokens: int | None = None) -> None:
        """Roll back to the first `marks` marks; injected corrections behind them are read again if asked to.

        Args:
            tokens: keep the tokens before this index behind those marks.
        """
        conversation, transcript = self.conversation, self.conversation.transcript
        if marks != len(transcript.marks) or not transcript.ends_with_mark(self.engine.tokens):
            conversation.cut(marks, tokens)
            if tokens is None or transcript.tokens != self.engine.tokens:
                self.engine.rollback(transcript.tokens)
        if transcript.due and reread:
            self.inject(transcript.due)

    def inject(self, ids: Sequence[int]) -> None:
        """Read a correction behind what was read; the unread rest of the last answer comes first."""
        conversation, transcript, rest = self.conversation, self.conversation.transcript, self.conversation.pending
        self.reread([*rest, *ids])
        transcript.extend(rest)
        marks = transcript.settled(transcript.tokens)
        transcript.marks, conversation.pending = marks, []
        transcript.inject(ids)
