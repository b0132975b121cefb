"""Edits of a session: tokens that are evicted, forgotten, injected or revived between calls."""

from __future__ import annotations

from erecap.session.composed import ComposedSession
from erecap.session.one_call import one_call


class EditedSession(ComposedSession):
    """A session whose stored tokens can be edited by their indices; `SessionEdits` does it."""

    @one_call
    def evict(self, span: tuple[int, int]) -> int:
        """Evict the keys and values of a span; positions stay. Tokens read after it have attended to it, and keep that.

        Args:
            span: token indices `(start, end)` in everything read, here and in the other edits.

        Returns:
            Tokens that were stored and are evicted, of the layer that lost most.

        Raises:
            ValueError: a span outside of the tokens read.
        """
        return self.edits.evict(span)

    @one_call
    def splice(self, span: tuple[int, int]) -> int:
        """Evict a span and reposition: the tokens still stored get consecutive positions, their keys rotated to fit.

        Exact for rotary embeddings that do not depend on the length (default, linear, llama3, yarn). Keys and values
        keep what they absorbed of evicted tokens; only distances change. So an episode can outlive the model's window.

        Raises:
            ValueError: a span outside of the tokens read, or another kind of position embedding.
        """
        return self.edits.splice(span)

    @one_call
    def forget(self, span: tuple[int, int]) -> int:
        """Evict a span and prefill everything after it again, at its old positions, as if it had never been there.

        Costs a prefill of the tokens after the span. Those that had been evicted are stored again, until the
        next call brings the session back to its budget. After a splice there are no old positions: the tokens after the
        span are then prefilled right behind those stored before it.

        Returns:
            Tokens prefilled again.

        Raises:
            ValueError: a span outside of the tokens read, ids after it that are forgotten (`rewind_tokens`), or edits
                of the chat in force.
            BudgetError: the tokens after it do not fit the model's window any more; nothing has changed then.
        """
        return self.edits.forget(span)

    @one_call
    def correct(self, text: str) -> int:
        """Inject a correction that the model sees before the next messages.

        Later tokens have already attended to a stale fact, so evicting it is not enough, and re-reading is expensive.

        Returns:
            Tokens read.

        Raises:
            ValueError: an empty text.
        """
        return self.edits.correct(text)

    @one_call
    def revive(self, span: tuple[int, int] | None = None) -> int:
        """Bring tokens that pruning dropped from the deeper layers back into them, as when the goal has changed.

        Needs `PruneConfig(park_tokens=...)`, which bounds how many dropped tokens can come back: the ones dropped last.
        Costs their share of a prefill. They attend to what is stored now. Later tokens have not attended to them,
        and are not changed; so revive before the new goal is read. Evicted tokens do not come back. The deeper layers
        may then hold more than the budget until the next call, which evicts; there these tokens rank as usual.

        Args:
            span: token indices `(start, end)`; None: everything that can come back.

        Returns:
            Tokens revived.

        Raises:
            ValueError: a span outside of the tokens read, or an engine that cannot revive.
            RunError: an attention implementation that takes no mask of this kind (flash attention).
        """
        return self.edits.revive(span)
