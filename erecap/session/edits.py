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
        if transcript.edits:
            raise ValueError("edits of the chat are in force, which reading anew would undo; take them back first")
        rest = transcript.since(end)
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
        except BaseException:
            # Half of the rest may be stored; go back to what is known to be whole.
            conversation.cut(sum(mark.tokens <= start for mark in transcript.marks))
            engine.rollback(transcript.tokens)
            raise
        return len(rest)

    def correct(self, text: str) -> int:
        """See `ReplanSession.correct`."""
        if not text.strip():
            raise ValueError("a correction needs a text")
        conversation = self._conversation
        ids = conversation.tokenizer(f"\nCorrection: {text.strip()}\n", add_special_tokens=False)["input_ids"]
        # The answer's last token may not be read yet; it comes first, and belongs to the answer.
        count = len(conversation.pending) + len(ids)
        if not conversation.chat.empty:
            self._prefill.make_room(count, conversation.own_part()[1])
        try:
            self._prefill.inject(ids)
        except BaseException:
            self._prefill.roll_back(len(conversation.transcript.marks))
            raise
        return count

    def read_again(self) -> None:
        """Prefill everything that was read once more, because the model computes other keys than it did then.

        Where that would pass the budget or the window, or ids were forgotten, nothing stays; the next call then reads
        the chat that it is given.
        """
        transcript, engine = self._conversation.transcript, self._engine
        limited = self._prefill.policy.budget.limited or self._prefill.policy.config.prune is not None
        if limited or transcript.forgotten or transcript.tokens > engine.window:
            self._conversation.cut(0)
            engine.reset()  # keys of another shape may come, and of other layers
            return
        transcript.edits = []  # all is read, dropped messages included; the next call edits anew
        engine.reset()  # interrupted from here on, the engine has read less than the transcript: see `settle`
        self._prefill.reread(transcript.ids)

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
