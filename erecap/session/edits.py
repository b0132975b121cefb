"""Edits of what a session remembers, beside the chat: evict, splice, forget, correct, revive.

They are an overlay: the chat that the caller brings knows nothing of them, and matching skips them.
"""

from __future__ import annotations

from typing import Any

import torch

from erecap.errors import BudgetError
from erecap.session.steps import SessionParts
from erecap.tokens.revival import revive


class SessionEdits(SessionParts):
    """The edit methods of `ReplanSession`; spans are places of tokens `(start, end)` in everything read."""

    def evict(self, span: tuple[int, int]) -> int:
        """Drop the keys and values of a span; positions stay. What was read after it has seen it, and keeps that.

        Returns:
            Tokens that were stored and are gone, of the layer that lost most.

        Raises:
            ValueError: a span outside of what was read.
        """
        start, end = self._checked(span)

        def gone(layout: Any) -> torch.Tensor:
            return (layout.index[0] >= start) & (layout.index[0] < end)

        return self._reader.cache.drop(gone)

    def splice(self, span: tuple[int, int]) -> int:
        """Drop a span and close up: the tokens still stored get consecutive positions, their keys turned to fit.

        Exact for rotary embeddings that do not depend on the length (default, linear, llama3, yarn). Keys and values
        keep what they absorbed; only distances change. Lets an episode outlive the model's window.

        Raises:
            ValueError: a span outside of what was read, or another kind of position embedding.
        """
        gone = self.evict(span)
        self._reader.close_up()
        return gone

    def forget(self, span: tuple[int, int]) -> int:
        """Drop a span and read everything after it anew, at its old positions: as if the span had never been there.

        Costs a prefill of what came after. Tokens after the span that had been evicted are stored again, until the
        next call brings the session back to its budget. After a splice there are no old positions: what came after is
        then read right behind what is stored before the span.

        Returns:
            Tokens read anew.

        Raises:
            ValueError: a span outside of what was read, or ids after it that were let go (`rewind_tokens`).
            BudgetError: what came after does not fit the model's window any more; nothing has changed then.
        """
        start, end = self._checked(span)
        rest = self._transcript.since(end)
        try:
            self._reader.read_again(start, end, rest)
        except BudgetError:
            raise  # nothing has changed
        except BaseException:
            # Half of the rest may be stored; go back to what is known to be whole.
            self._transcript.cut(sum(mark.tokens <= start for mark in self._transcript.marks))
            self._reader.back_to(self._transcript.tokens)
            raise
        return len(rest)

    def correct(self, text: str) -> int:
        """Append a correction that the model sees before the next messages.

        Later tokens have already absorbed a stale fact, so evicting the fact is not enough, and re-reading is dear.

        Returns:
            Tokens read.

        Raises:
            ValueError: an empty text.
        """
        if not text.strip():
            raise ValueError("a correction needs a text")
        ids = self.tokenizer(f"\nCorrection: {text.strip()}\n", add_special_tokens=False)["input_ids"]
        # The answer's last token may not be read yet; it comes first, and belongs to the answer.
        pending = list(self._reader.pending)
        if not self._chat.empty:
            self._make_room(len(pending) + len(ids), self._own_part())
        self._reader.read_overlay(pending + ids)
        self._transcript.extend(pending)
        self._transcript.settle(self._transcript.tokens)
        self._transcript.overlay(ids)
        return len(pending) + len(ids)

    def revive(self, span: tuple[int, int] | None = None) -> int:
        """Bring tokens that pruning dropped from the deeper layers back into them, as when the goal has changed.

        Needs `PruneConfig(park_tokens=...)`, which bounds how many dropped tokens can come back: the ones dropped last.
        Costs their share of a prefill. They see what is stored now; what was read after them has not seen them, and
        keeps that, so revive before the new goal is read. Evicted tokens do not come back. The deeper layers may then
        hold more than the budget, until the next call brings the session back to it; there these tokens rank as usual.

        Args:
            span: places of tokens `(start, end)`; None: everything that can come back.

        Returns:
            Tokens revived.

        Raises:
            ValueError: a span outside of what was read.
            RunError: an attention implementation that takes no mask of this kind (flash attention).
        """
        return revive(self._reader.model, self._reader.cache, None if span is None else self._checked(span))

    def _checked(self, span: tuple[int, int]) -> tuple[int, int]:
        start, end = span
        if not 0 <= start <= end <= self._transcript.tokens:
            raise ValueError(f"span ({start}, {end}) lies outside the {self._transcript.tokens} tokens read")
        return start, end
