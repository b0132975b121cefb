"""Prefill of a chat: roll back to the shared beginning, read the rest in chunks, evict between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from erecap.engines.protocol import SessionEngine
from erecap.session.automatic import make_room
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.conversation import Conversation
from erecap.session.conversation.edit_record import Event, reach
from erecap.session.conversation.marks import mark_messages
from erecap.session.conversation.places import Places
from erecap.session.conversation.protection_spans import numbered
from erecap.session.conversation.transcript import Mark
from erecap.session.edit_steps import EditCounts, EditStep, make, planned
from erecap.session.interrupt import Interrupt
from erecap.session.policy import SessionPolicy


class SessionPrefill:
    """Brings a conversation and an engine to the end of a chat together, under a policy."""

    def __init__(self, conversation: Conversation, policy: SessionPolicy, engine: SessionEngine) -> None:
        self.conversation = conversation
        self.policy = policy
        self.engine = engine
        self.again = 0  # stored tokens that the engine had to read again in the newest read
        self.steps: list[EditStep] = []  # edits of the chat that the next read makes on its way
        self.edited = EditCounts()  # of the newest call

    def enter(
        self,
        part: ChatPart,
        known: int,
        answering: bool = False,
        anew: bool = False,
        events: Sequence[Event] | None = None,
    ) -> tuple[list[int], list[Mark], int]:
        """Roll back tokens that do not belong to the chat; ids and marks of what is left to read, and tokens reused.

        Args:
            known: marks that lie in the chat, see `Conversation.match`.
            answering: leave something to read, for the logits, where the template writes nothing before an answer.
            anew: read the whole chat again, whatever of it was read.
            events: edits of the chat, which is then a whole one. The next `read` makes those that are not in force;
                None: those that are stay, as far as the chat is what it was.

        Raises:
            MessagesError: an edit whose place the chat template does not tell.
        """
        known = 0 if anew else known
        conversation, transcript = self.conversation, self.conversation.transcript
        end = part.offset + len(part.text)
        while answering and known and transcript.marks[known - 1].characters == end:
            known -= 1
        limit: int | None = None  # tokens that may stay, as far as edits are concerned
        while True:
            agreed = None if anew else conversation.agreement(part, known)
            base = conversation.mark_before(known if agreed is None else agreed[0])
            reused = first = base.tokens if base else 0
            if agreed is not None:
                same = max(0, min(agreed[1], len(agreed[2].ids) - answering))
                reused += same if limit is None else min(same, limit - first)
            kept, limit = self._reach(part, reused, events)
            if limit >= reused:
                break
            known = self._marks_within(limit, known)
        ended = self._ends_of_edits(known if agreed is None else agreed[0], known, reused)
        self.edited = EditCounts(sum(made.tokens for made in transcript.edits[:kept]))
        if agreed is None:
            self.roll_back(known, reread=True)
            base, encoded, first = conversation.rest(part, known)
            ids = conversation.pending + encoded.ids
            marks = mark_messages(part, base, encoded, first, transcript.marks)
        else:
            number, encoded = agreed[0], agreed[2]
            marks = mark_messages(part, base, encoded, first, transcript.marks)
            self.roll_back(number, reread=True, tokens=reused)
            conversation.pending = []  # what it was is among the new ids, as the text has it
            moved = transcript.tokens - reused  # corrections that were read again come before the rest
            if moved:
                marks = mark_messages(part, base, encoded, first + moved, ())
            there = [mark for mark in marks if mark.tokens <= reused]
            transcript.extend((), sorted([*there, *ended], key=lambda mark: (mark.tokens, mark.characters)))
            ids, marks = encoded.ids[reused - first :], [mark for mark in marks if mark.tokens > reused]
            first += moved
        transcript.edits = transcript.edits[:kept]
        self.steps = []
        if events is not None and kept < len(events):
            messages = list(numbered(part.claims).values())
            places = Places(conversation.tokenizer, part, messages, transcript, base, encoded, first)
            self.steps = planned(events[kept:], messages, part, places, [*transcript.known_marks, *marks])
        return ids, marks, reused

    def _reach(self, part: ChatPart, reused: int, events: Sequence[Event] | None) -> tuple[int, int]:
        """Edits in force that stay, and tokens that may, where `reused` ones could without edits."""
        made = self.conversation.transcript.edits
        if events is None:
            return reach(made, [one.event for one in made], reused)
        limit = reused
        while True:
            kept, limit = reach(made, events, limit)
            begins = self._begins(events[kept], part) if kept < len(events) else limit
            if begins >= limit:
                return kept, limit
            limit = begins

    def _begins(self, event: Event, part: ChatPart) -> int:
        """Tokens that may stay where an event is made anew: up to the end of its message's content."""
        marks = self.conversation.transcript.marks
        end = part.spans[event.message][1]
        found = [mark.tokens for mark in marks if mark.message == event.message and mark.characters <= end]
        if found:
            return found[-1]
        read = max((mark.message for mark in marks), default=-1)
        return 0 if event.message <= read else self.conversation.transcript.tokens

    def _marks_within(self, tokens: int, known: int) -> int:
        """Of the first `known` marks, those within the first `tokens` tokens; the last of them is aligned."""
        marks = self.conversation.transcript.marks
        while known and (marks[known - 1].tokens > tokens or not marks[known - 1].aligned):
            known -= 1
        return known

    def _ends_of_edits(self, number: int, known: int, reused: int) -> list[Mark]:
        """Marks at edits in force among those after the first `number` ones, which a roll-back to these would lose."""
        transcript = self.conversation.transcript
        places = {made.at for made in transcript.edits}
        marks = transcript.marks[number:known]
        doubled = {mark.message for mark in transcript.marks[:number]}
        found = []
        for mark in marks:
            if mark.tokens in places and mark.tokens <= reused and mark.message in doubled:
                found.append(mark)
            doubled.add(mark.message)
        return found

    def reachable(self, known: int) -> int:
        """Marks to go back to instead of the first `known` ones, so that no edit that is undone leaves a gap."""
        base = self.conversation.mark_before(known)
        tokens = base.tokens if base else 0
        made = self.conversation.transcript.edits
        return self._marks_within(reach(made, [one.event for one in made], tokens)[1], known)

    def read(
        self,
        ids: Sequence[int],
        marks: Sequence[Mark],
        part: ChatPart,
        room: int,
        interrupt: Interrupt | None = None,
    ) -> np.ndarray:
        """Prefill `ids`, evicting between chunks, and note them in the transcript; make the edits that are due.

        Args:
            room: tokens that will be generated afterwards and must find positions.
            interrupt: may end the prefill between two chunks.

        Raises:
            Interrupted: by `interrupt`.

        Returns:
            Logits `(vocab,)` after the last token.
        """
        transcript, coming = self.conversation.transcript, deque(marks)
        self.again = 0
        # The rest of the last answer comes first; once read, it belongs to that answer's mark.
        start, settled = transcript.tokens, transcript.tokens + len(self.conversation.pending)
        steps, self.steps = self.steps, []
        logits, done = None, 0
        for step in steps:
            upto = step.at - start
            if done < upto:
                last = upto == len(ids)
                logits = self._read(ids[done:upto], coming, part, room if last else 0, settled, interrupt)
                if interrupt is not None and not last:
                    interrupt.check()
            self._edit(step, coming, before=start, first=not upto)
            done = max(done, upto)
            self.enforce(part, coming)
        if done < len(ids):
            logits = self._read(ids[done:], coming, part, room, settled, interrupt)
        assert logits is not None, "a read has at least one token"
        return logits

    def _edit(self, step: EditStep, coming: deque[Mark], before: int, first: bool) -> None:
        """Make one edit at the end of what was read.

        Args:
            before: tokens before this index were read in earlier calls.
            first: nothing was read in this call yet.
        """
        transcript = self.conversation.transcript
        while coming and coming[0].tokens <= transcript.tokens:
            transcript.extend((), [coming.popleft()])
        last = transcript.marks[-1] if transcript.marks else None
        if last is None or (last.tokens, last.characters) != (step.mark.tokens, step.mark.characters):
            transcript.extend((), [step.mark])
        evicted, moved = make(step, self.engine, transcript, before)
        self.edited.skipped += evicted if first else 0
        self.edited.moved = max(self.edited.moved, moved)

    def _read(
        self,
        ids: Sequence[int],
        coming: deque[Mark],
        part: ChatPart,
        room: int,
        settled: int,
        interrupt: Interrupt | None,
    ) -> np.ndarray:
        """Prefill `ids` in chunks; logits `(vocab,)` after the last of them."""
        conversation, transcript = self.conversation, self.conversation.transcript
        noted = announced = 0  # announced: tokens of chunks before the first new one, that one included
        again = self.again

        def between_chunks(done: int, following: int) -> int | None:
            nonlocal noted, announced
            begun = done or announced
            if not done:
                self.again, announced = again + announced, announced + following
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

    def take(self, part: ChatPart, events: Sequence[Event] | None = None) -> int:
        """Read a part that ends with a message's content; returns the tokens read.

        Args:
            events: as of `enter`.
        """
        try:
            ids, marks, _ = self.enter(part, self.conversation.match(part), events=events)
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
