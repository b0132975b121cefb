"""Edits of a session's stored tokens, beside the chat: evict, splice, forget, correct, revive.

The chat that the caller brings knows nothing of them, and matching skips them.
"""

from __future__ import annotations

import operator

from erecap.errors import BudgetError
from erecap.session.prefill import SessionPrefill


class SessionEdits:
    """The edits of one session; spans are token indices `(start, end)` in everything read."""

    def __init__(self, prefill: SessionPrefill) -> None:
        self._prefill = prefill
        self._conversation = prefill.conversation
        self._engine = prefill.engine

    def evict(self, span: tuple[int, int]) -> int:
        """See `ReplanSession.evict`."""
        start, end = self._checked(span)
        return self._engine.evict([own[(own >= start) & (own < end)] for own in self._engine.stored().groups])

    def splice(self, span: tuple[int, int]) -> int:
        """See `ReplanSession.splice`."""
        evicted = self.evict(span)
        self._engine.reposition()
        return evicted

    def forget(self, span: tuple[int, int]) -> int:
        """See `ReplanSession.forget`."""
        start, end = self._checked(span)
        conversation, transcript, engine = self._conversation, self._conversation.transcript, self._engine
        rest, pending = transcript.since(end), conversation.pending
        before = int((engine.stored().indices < start).sum())
        if before + len(rest) > engine.window:
            raise BudgetError(
                f"reading {len(rest)} tokens anew behind {before} stored ones exceeds the window of {engine.window}"
            )
        try:
            # Where tokens were repositioned there are no old positions: reading goes on right behind what is stored.
            gap = engine.tokens == engine.next_position
            engine.rollback(start)
            engine.skip(end - start, gap)
            self._prefill.reread(rest)
            conversation.pending = pending
        except BaseException:
            # Half of the rest may be stored; go back to what is known to be whole.
            transcript.cut(sum(mark.tokens <= start for mark in transcript.marks))
            engine.rollback(transcript.tokens)
            conversation.pending = []
            raise
        return len(rest)

    def correct(self, text: str) -> int:
        """See `ReplanSession.correct`."""
        if not text.strip():
            raise ValueError("a correction needs a text")
        conversation = self._conversation
        ids = conversation.tokenizer(f"\nCorrection: {text.strip()}\n", add_special_tokens=False)["input_ids"]
        # The answer's last token may not be read yet; it comes first, and belongs to the answer.
        pending, transcript = list(conversation.pending), conversation.transcript
        if not conversation.chat.empty:
            self._prefill.make_room(len(pending) + len(ids), conversation.own_part()[1])
        self._prefill.reread(pending + ids)
        transcript.extend(pending)
        transcript.settle(transcript.tokens)
        transcript.inject(ids)
        return len(pending) + len(ids)

    def revive(self, span: tuple[int, int] | None = None) -> int:
        """See `ReplanSession.revive`."""
        return self._engine.revive(None if span is None else self._checked(span))

    def _checked(self, span: tuple[int, int]) -> tuple[int, int]:
        try:
            start, end = map(operator.index, span)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a span must be two token indices (start, end), got {span!r}") from error
        if not 0 <= start <= end <= self._conversation.transcript.tokens:
            raise ValueError(
                f"span ({start}, {end}) lies outside the {self._conversation.transcript.tokens} tokens read"
            )
        return start, end
