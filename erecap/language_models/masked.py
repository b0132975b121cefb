"""Text part `mask`: keep a chat within a budget by blanking its oldest observations."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.context.compaction.mask import Place, drop_exchanges, mask_messages
from erecap.generation import Message
from erecap.language_models.shown import ShownChat, ShownSessions

LOW_WATERMARK = 0.9  # share of the budget that masking leaves, so that the next calls only append


class MaskedSessions(ShownSessions):
    """A language model that blanks old observations until the chat and its answer fit a budget.

    The chat is only appended to until it exceeds the budget. Then its oldest observations are blanked down to nine
    tenths of it; if that is not enough, the oldest exchanges without protected text go; and at last, as at the end of
    a model's window, the oldest messages and the middle of the newest (`usage.overflow_messages`, `truncated_tokens`).
    Blanked and left-out text stays so.
    """

    def forget(self) -> None:
        self._masked: frozenset[Place] = frozenset()
        self._dropped: list[int] = []

    def show(self, messages: Sequence[Message], max_new_tokens: int) -> ShownChat:
        whole = self.count(messages)
        limit = self.limit(whole, max_new_tokens)
        goal = int(LOW_WATERMARK * limit)
        masked = mask_messages(messages, whole, self.count, already=self._masked)
        rest = self._without_dropped(masked.messages)
        if self.count(rest) > limit:
            masked = mask_messages(messages, goal, self._shown_count, already=self._masked)
            self._masked = masked.places
            self._dropped = drop_exchanges(masked.messages, goal, self.count, already=self._dropped)
            rest = self._without_dropped(masked.messages)
        return self.fitted(rest, limit, self._dropped, len(messages), masked.masked, whole)

    def _shown_count(self, messages: Sequence[Message]) -> int:
        return self.count(self._without_dropped(messages))

    def _without_dropped(self, messages: Sequence[Message]) -> list[Message]:
        gone = set(self._dropped)
        return [message for number, message in enumerate(messages) if number not in gone]
