"""The policy of a session: its budget, what it evicts for it, when it repositions, and its scheduler. Without torch."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np

from erecap.budget import Budget
from erecap.engines.protocol import SessionEngine, Stored
from erecap.errors import BudgetError
from erecap.scheduling.rules import Scheduler
from erecap.session.config import SessionConfig
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.protection_spans import numbered
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import OPEN, priorities, random_scores, staying


class SessionPolicy:
    """Keeps an engine within a budget; decides by token indices, priorities and scores alone."""

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.budget: Budget = config.budget or Budget()
        self.scheduler: Scheduler | None = config.scheduler
        self.evicted = 0  # tokens evicted so far
        self.seconds = 0.0  # spent on evicting so far

    def copy(self) -> SessionPolicy:
        """An independent policy, with a scheduler of its own."""
        twin = copy.copy(self)
        twin.scheduler, twin.seconds = copy.copy(self.scheduler), 0.0
        return twin

    def enforce(
        self,
        engine: SessionEngine,
        transcript: Transcript,
        part: ChatPart,
        coming: Sequence[Mark] = (),
        limit: int | None = None,
    ) -> None:
        """Evict until every layer stores at most what the budget says.

        Args:
            part: the chat that says what is protected and what is stale.
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
        claims = part.claims
        if not self.config.stale_first:
            claims = {number: {**message, "stale": []} for number, message in numbered(claims).items()}
        marks = [*transcript.known_marks, *coming]
        priority = priorities(indices, marks, claims, part.protected, self.config.sinks)
        scores = self._scores(engine, indices)
        found = []
        for own in stored.groups:
            column = np.searchsorted(indices, own)
            found.append(own[~staying(priority[column], scores[column], budget)])
        return found

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

    def make_room(self, engine: SessionEngine, tokens: int) -> None:
        """Reposition if `tokens` more would leave the model's window.

        Raises:
            BudgetError: they do not fit even so.
            ValueError: the engine cannot reposition.
        """
        if engine.next_position + tokens <= engine.window:
            return
        engine.reposition()
        if engine.next_position + tokens > engine.window:
            raise BudgetError(
                f"{engine.next_position} stored tokens and {tokens} more exceed the model's window of "
                f"{engine.window}; lower kv_tokens"
            )
