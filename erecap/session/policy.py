"""Eviction policy of a session: its budget, evictions, repositioning, and scheduler. Without torch."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from erecap.budget import Budget
from erecap.engines.protocol import SessionEngine, Stored
from erecap.engines.token_bytes import check_memory
from erecap.errors import BudgetError
from erecap.generation import Decision, Usage
from erecap.scheduling.rules import Scheduler
from erecap.session.config import SessionConfig
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.protection_spans import Span, numbered, thoughts_of
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import HEAD, OPEN, priorities, random_scores, staying


class SessionPolicy:
    """Keeps an engine within a budget; decides by token indices, priorities and scores alone."""

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.budget: Budget = config.budget or Budget()
        self.scheduler: Scheduler | None = config.scheduler
        self.evicted = 0  # tokens evicted so far, those of calls that were rolled back included
        self.seconds = 0.0  # spent on evicting so far
        self.room = 0  # tokens that an answer may have, as the newest call says
        self.said: list[Span] = []  # thinking in the newest answer, until a chat has it
        self.dropped_because: str | None = None  # the reason of the last eviction, until an answer tells it

    def copy(self) -> SessionPolicy:
        """An independent policy, with a scheduler of its own."""
        twin = copy.copy(self)
        twin.scheduler, twin.seconds = copy.copy(self.scheduler), 0.0
        return twin

    def check(self, engine: SessionEngine) -> None:
        """Refuse a budget that cannot be kept with this engine.

        Raises:
            ValueError: a memory that holds next to nothing, or a fixed budget although stored tokens cannot be
                repositioned, so that the window would end the session.
        """
        check_memory(engine.bytes_per_token, self.budget.memory_bytes)
        fixed = engine.why_fixed if self.budget.limited and not self.budget.automatic else None
        if fixed is not None:
            raise ValueError(f"a budget needs stored tokens to be repositioned: {fixed}; give no budget, or 'auto'")

    def why_fixed(self, engine: SessionEngine) -> str | None:
        """Reason why the engine cannot reposition, where the budget relies on it."""
        return engine.why_fixed if self.budget.automatic else None

    def outlives_window(self, engine: SessionEngine) -> bool:
        """True if eviction makes room past the window, so that no message has to be left out."""
        return self.budget.limited and self.why_fixed(engine) is None

    def enforce(
        self,
        engine: SessionEngine,
        transcript: Transcript,
        part: ChatPart,
        coming: Sequence[Mark] = (),
        limit: int | None = None,
    ) -> None:
        """Evict until every layer stores at most the budget.

        Args:
            part: the chat with its protected and stale spans.
            coming: marks of messages that are not read to their end yet.
            limit: tokens to leave stored, instead of the budget.

        Raises:
            BudgetError: system and goal alone exceed it; nothing is evicted then.
        """
        budget = self.budget.tokens(transcript.tokens) if limit is None else limit
        if budget is None:
            return
        stored = engine.stored()
        if stored.most <= budget:
            return
        started = time.perf_counter()
        self.evicted += engine.evict(self.gone(engine, stored, transcript, part, coming, budget))
        self.seconds += time.perf_counter() - started
        if limit is None:
            why = self.budget.limit(read=transcript.tokens, window=None)
            self.dropped_because = f"more tokens were stored than {why.reason} allows" if why else None

    def gone(
        self,
        engine: SessionEngine,
        stored: Stored,
        transcript: Transcript,
        part: ChatPart,
        coming: Sequence[Mark],
        budget: int,
    ) -> list[np.ndarray]:
        """Token indices to evict, for each group of layers, so that `budget` of them stay."""
        indices = stored.indices
        priority = self.priorities(indices, transcript, part, coming)
        scores = self._scores(engine, indices)
        to_come = partial(self.head_to_come, transcript, part, coming)
        found = []
        for own in stored.groups:
            column = np.searchsorted(indices, own)
            found.append(own[~staying(priority[column], scores[column], budget, to_come)])
        return found

    def head_to_come(self, transcript: Transcript, part: ChatPart, coming: Sequence[Mark]) -> int:
        """Tokens of messages that are not read to their end yet, which will never be evicted once they are read."""
        end = max((mark.tokens for mark in coming), default=0)
        unread = np.arange(transcript.tokens, max(transcript.tokens, end))
        return int((self.priorities(unread, transcript, part, coming) == HEAD).sum())

    def priorities(
        self, indices: np.ndarray, transcript: Transcript, part: ChatPart, coming: Sequence[Mark]
    ) -> np.ndarray:
        """Eviction priority `(n,)` of each stored token, see `erecap.session.eviction`."""
        claims = part.claims
        if not self.config.stale_first:
            claims = {number: {**message, "stale": []} for number, message in numbered(claims).items()}
        marks = [*transcript.known_marks, *coming]
        thoughts = [*thoughts_of(claims), *self.said] if self.config.thinking_first else ()
        return priorities(indices, marks, claims, part.protected, self.config.sinks, thoughts)

    def evict_together(self, engine: SessionEngine, stored: Stored, priority: np.ndarray, budget: int) -> None:
        """Evict down to `budget` tokens, the same in all layers: a token in one layer takes a position in all."""
        started = time.perf_counter()
        kept = stored.indices[staying(priority, self._scores(engine, stored.indices), budget)]
        self.evicted += engine.evict([own[~np.isin(own, kept)] for own in stored.groups])
        self.seconds += time.perf_counter() - started

    def why_dropped(self, engine: SessionEngine, decision: Decision | None, usage: Usage) -> str | None:
        """Reason why part of the chat was dropped since the last answer, in words; None: nothing was."""
        because, self.dropped_because = self.dropped_because, None
        if because is None and decision is not None and usage.evicted_tokens:
            because = decision.reason
        if usage.overflow_messages or usage.truncated_tokens:
            because = f"the chat and its answer pass the window of {engine.window:,}, so text was left out"
            fixed = self.why_fixed(engine)
            if fixed is not None:
                because += f"; nothing is evicted instead, as {fixed}"
        return because

    def _scores(self, engine: SessionEngine, indices: np.ndarray) -> np.ndarray:
        if self.config.evict_by == "random":
            return random_scores(indices, self.config.seed)
        taken = None if self.config.evict_by == "recency" else engine.scores(indices)
        return indices if taken is None else taken

    def protected(self, engine: SessionEngine, transcript: Transcript, part: ChatPart) -> int:
        """Stored tokens that no eviction may take."""
        marks = transcript.known_marks
        found = priorities(engine.stored().indices, marks, part.claims, part.protected, self.config.sinks)
        return int((found > OPEN).sum())

    def find_positions(self, engine: SessionEngine, tokens: int) -> None:
        """Reposition if `tokens` more would leave the model's window.

        Raises:
            BudgetError: they do not fit even so.
            ValueError: the engine cannot reposition.
        """
        if engine.next_position + tokens <= engine.window:
            return
        fixed = self.why_fixed(engine)
        if fixed is not None:
            raise BudgetError(
                f"{tokens} tokens from position {engine.next_position} on exceed the model's window of "
                f"{engine.window}; "
                f"no room can be made: {fixed}; give the whole chat, whose oldest messages are then left out"
            )
        engine.reposition()
        if engine.next_position + tokens > engine.window:
            raise BudgetError(
                f"{engine.next_position} stored tokens and {tokens} more exceed the model's window of "
                f"{engine.window}; "
                + ("lower kv_tokens" if self.budget.limited and not self.budget.automatic else "shorten them")
            )
