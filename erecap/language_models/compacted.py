"""Text part `compact`: keep a chat within a budget record by record, as for remote models."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.context.compaction.view import CompactView
from erecap.generation import Message
from erecap.language_models.shown import ShownChat, ShownSessions

TARGET = 0.6  # share of the budget that a compaction leaves, so that the next calls only append


class CompactedSessions(ShownSessions):
    """A language model that compacts its chat whenever it and its answer would exceed a budget.

    Between compactions the shown chat is only appended to (`CompactView`). A compaction removes stale text, then
    exchange by exchange, from the oldest on, first its observations and then all of it. Protected text stays; where it
    alone exceeds the budget, the oldest messages and the middle of the newest go, as at the end of a model's window
    (`usage.overflow_messages`, `truncated_tokens`).
    """

    def forget(self) -> None:
        self._view = CompactView(self.count, max_tokens=1)

    def show(self, messages: Sequence[Message], max_new_tokens: int) -> ShownChat:
        whole = self.count(messages)
        limit = self.limit(whole, max_new_tokens)
        self._view.max_tokens, self._view.target_tokens = limit, max(1, int(TARGET * limit))
        shown = self._view.show(messages)
        return self.fitted(shown.messages, limit, shown.dropped, len(messages), shown.edited, whole)
