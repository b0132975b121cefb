"""A session as a `LanguageModel` for one episode after another."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from erecap.budget import Budget
from erecap.config.exits import Exit
from erecap.cost.model import CostModel
from erecap.decoding.drafts.texts import DraftMemory
from erecap.decoding.linear import Weights
from erecap.engines.transformers import TransformersEngine
from erecap.generation import Generation, Message
from erecap.registries import SHARED_DRAFTS
from erecap.scheduling.rules import Scheduler
from erecap.session.config import draft_way
from erecap.session.session import ReplanSession
from erecap.tokens.cache.read_scores import ReadScorer
from erecap.tokens.cache.shared_storage import stored_bytes
from erecap.tokens.scoring.schedule import PruneConfig


class EpisodeSessions:
    """Hands each episode a new `ReplanSession`; otherwise a language model like any other.

    Args:
        model, tokenizer, budget, prune, evict_by, seed: as for `ReplanSession`.
        stale_first, draft, decode_weights, cost, engine, draft_cost, exit: as for `ReplanSession`.
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
        draft: bool | str = True,
        seed: int = 0,
        decode_weights: Weights = "same",
        scheduler: Callable[[], Scheduler] | None = None,
        cost: CostModel | None = None,
        engine: str = "transformers",
        draft_cost: CostModel | None = None,
        exit: Exit | None = None,
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
            "draft_cost": draft_cost,
            # Episodes of a run draft from each other's answers.
            "draft_memory": DraftMemory() if draft_way(draft) in SHARED_DRAFTS else None,
            "exit": exit,
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
        self._family = [self.session]  # with its forks
        self._owed = (0, 0.0)

    def fork(self, messages: Sequence[Message]) -> EpisodeSessions:
        """A conversation of its own that begins with `messages`; see `ForkingModel`.

        The first fork of an episode reads them; its first answer counts these tokens and this time as its own. An
        answer's bytes are those of all forks together, where what they share counts once.
        """
        started = time.perf_counter()
        read = self.session.read(messages)
        twin = copy.copy(self)
        twin.session = self.session.fork()
        twin._owed = (read, 1e3 * (time.perf_counter() - started))
        self._family.append(twin.session)  # one list for all of them
        return twin

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most."""
        return self.session.engine.stored().most

    def read(self, messages: Sequence[Message]) -> int:
        """As `ReplanSession.read`."""
        return self.session.read(messages)

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        """As `ReplanSession.generate`."""
        answer = self.session.generate(messages, trace=self.trace, **options)
        if len(self._family) == 1:
            return answer
        (read, ms), self._owed = self._owed, (0, 0.0)
        usage, timing = answer.usage, answer.timing
        return replace(
            answer,
            usage=replace(
                usage,
                new_tokens=usage.new_tokens + read,
                reused_tokens=max(0, usage.reused_tokens - read),
                kv_bytes=kv_bytes_of(self._family),
            ),
            timing=replace(timing, prefill_ms=timing.prefill_ms + ms, total_ms=timing.total_ms + ms),
        )


def kv_bytes_of(sessions: Sequence[ReplanSession]) -> int:
    """Bytes of keys and values that sessions store; a beginning that some of them share counts once.

    Engines other than transformers say nothing of what they share: there each session counts whole.
    """
    sharing = [session for session in sessions if isinstance(session.engine, TransformersEngine)]
    whole = sum(session.engine.kv_bytes() for session in sessions if session not in sharing)
    # Copies of the lists: a server is asked for this while its sessions read.
    return whole + stored_bytes(layer for session in sharing for layer in list(session.cache.layers))
