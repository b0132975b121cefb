"""A session as a `LanguageModel` for one episode after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from erecap.budget import Budget
from erecap.cost.model import CostModel
from erecap.decoding.linear import Weights
from erecap.generation import Generation, Message
from erecap.scheduling.rules import Scheduler
from erecap.session.session import ReplanSession
from erecap.tokens.cache.read_scores import ReadScorer
from erecap.tokens.scoring.schedule import PruneConfig


class EpisodeSessions:
    """Hands each episode a new `ReplanSession`; otherwise a language model like any other.

    Args:
        model, tokenizer, budget, prune, evict_by, seed: as for `ReplanSession`.
        stale_first, draft, decode_weights, cost, engine: as for `ReplanSession`.
        scheduler: makes the scheduler of each episode; None: no scheduling.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        budget: Budget | None = None,
        prune: PruneConfig | None = None,
        evict_by: str | ReadScorer = "recency",
        stale_first: bool = True,
        draft: bool = True,
        seed: int = 0,
        decode_weights: Weights = "same",
        scheduler: Callable[[], Scheduler] | None = None,
        cost: CostModel | None = None,
        engine: str = "transformers",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.trace = False
        self.takes_old_plan = scheduler is not None
        self._scheduler = scheduler
        self._options = {
            "budget": budget,
            "prune": prune,
            "evict_by": evict_by,
            "stale_first": stale_first,
            "draft": draft,
            "seed": seed,
            "decode_weights": decode_weights,
            "cost": cost,
            "engine": engine,
        }
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nothing of the last one is remembered."""
        scheduler = self._scheduler() if self._scheduler else None
        self.session = ReplanSession(
            self.model,
            self.tokenizer,
            scheduler=scheduler,
            **self._options,  # type: ignore[arg-type]
        )

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most."""
        return self.session.engine.stored().most

    def read(self, messages: Sequence[Message]) -> int:
        """As `ReplanSession.read`."""
        return self.session.read(messages)

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        """As `ReplanSession.generate`."""
        return self.session.generate(messages, trace=self.trace, **options)
