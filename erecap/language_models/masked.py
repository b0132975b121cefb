"""The mode `mask`: a chat is kept within a budget as text, and read by a session that keeps everything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erecap.budget import Budget
from erecap.context.compaction.mask import Place, drop_exchanges, mask_messages
from erecap.context.fit import Fitted, fit_messages
from erecap.context.tokenize import render_prompt
from erecap.generation import Generation, Message, PromptPiece, Usage
from erecap.language_models.per_episode import EpisodeSessions

LOW_WATERMARK = 0.9  # share of the budget that masking leaves, so that the next calls only append


@dataclass(frozen=True)
class _Shown:
    """The chat that the model is shown."""

    messages: list[Message]
    numbers: list[int]  # which message of the whole chat each of them is
    masked: int
    dropped: int
    fitted: Fitted
    whole: int  # tokens of the whole chat


class MaskedSessions:
    """A language model that blanks old observations until the chat and its answer fit a budget.

    The chat is only appended to until it exceeds the budget. Then its oldest observations are blanked down to nine
    tenths of it; if that is not enough, the oldest exchanges without protected text go; and at last, as at the end of
    a model's window, the oldest messages and the middle of the newest (`usage.overflow_messages`, `truncated_tokens`).
    What was blanked or left out stays so. A session with all of its keys and values reads the result: after each such
    change it reads again from the first place that changed, so answers are those of the unmodified model for the chat
    that it is shown.

    `usage.prompt_tokens` counts the whole chat, as in sessions that evict; `kept_per_layer` what was shown.

    Args:
        model, tokenizer: as for `ReplanSession`.
        budget: tokens of chat and answer together; `kv_ratio` is a share of the tokens of the whole chat.
        options: more arguments of `EpisodeSessions`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, budget: Budget, **options: Any) -> None:
        self.tokenizer = tokenizer
        self.budget = budget
        self.trace = False
        self._sessions = EpisodeSessions(model, tokenizer, **options)
        self.takes_old_plan = self._sessions.takes_old_plan
        self._masked: frozenset[Place] = frozenset()
        self._dropped: list[int] = []

    def reset(self) -> None:
        """Begin an episode: nothing of the last one is remembered."""
        self._masked, self._dropped = frozenset(), []
        self._sessions.reset()

    def generate(self, messages: Sequence[Message], *, max_new_tokens: int, **options: Any) -> Generation:
        """As `ReplanSession.generate`.

        Raises:
            BudgetError: system and goal alone exceed the budget.
        """
        started = time.perf_counter()
        shown = self._show(messages, max_new_tokens)
        spent = 1e3 * (time.perf_counter() - started)
        self._sessions.trace = self.trace
        generation = self._sessions.generate(shown.messages, max_new_tokens=max_new_tokens, **options)
        timing = generation.timing
        return replace(
            generation,
            usage=_usage(generation.usage, shown),
            timing=replace(timing, tokenize_ms=timing.tokenize_ms + spent, total_ms=timing.total_ms + spent),
            pieces=tuple(_renumbered(piece, shown.numbers) for piece in generation.pieces),
        )

    def _show(self, messages: Sequence[Message], max_new_tokens: int) -> _Shown:
        whole = self._count(messages)
        room = self.budget.tokens(whole)
        limit = whole if room is None else max(1, room - max_new_tokens)
        goal = int(LOW_WATERMARK * limit)
        masked = mask_messages(messages, whole, self._count, already=self._masked)
        rest = self._without_dropped(masked.messages)
        if self._count(rest) > limit:
            masked = mask_messages(messages, goal, self._shown_count, already=self._masked)
            self._masked = masked.places
            self._dropped = drop_exchanges(masked.messages, goal, self._count, already=self._dropped)
            rest = self._without_dropped(masked.messages)
        fitted = fit_messages(rest, self._count, limit)
        gone = set(self._dropped)
        numbers = [number for number in range(len(messages)) if number not in gone]
        head = next((place + 1 for place, message in enumerate(rest) if message["role"] == "user"), 0)
        del numbers[head : head + fitted.dropped]
        return _Shown(fitted.messages, numbers, masked.masked, len(self._dropped), fitted, whole)

    def _count(self, messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, self.tokenizer).input_ids)

    def _shown_count(self, messages: Sequence[Message]) -> int:
        return self._count(self._without_dropped(messages))

    def _without_dropped(self, messages: Sequence[Message]) -> list[Message]:
        gone = set(self._dropped)
        return [message for number, message in enumerate(messages) if number not in gone]


def _usage(usage: Usage, shown: _Shown) -> Usage:
    return replace(
        usage,
        prompt_tokens=shown.whole,
        overflow_messages=usage.overflow_messages + shown.fitted.dropped,
        truncated_tokens=usage.truncated_tokens + shown.fitted.truncated_tokens,
        masked_observations=shown.masked,
        dropped_messages=shown.dropped,
    )


def _renumbered(piece: PromptPiece, numbers: Sequence[int]) -> PromptPiece:
    """`piece` with the number that its message has in the whole chat."""
    return replace(piece, message=numbers[piece.message]) if piece.message >= 0 else piece
