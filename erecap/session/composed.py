"""The parts of a session, put together: conversation, policy, engine, and what is known of them."""

from __future__ import annotations

import logging
from typing import Any

from erecap.budget import Budget
from erecap.engines.protocol import SessionEngine
from erecap.scheduling.rules import Scheduler
from erecap.session.conversation.conversation import Conversation
from erecap.session.edits import SessionEdits
from erecap.session.one_call import OneCall
from erecap.session.opening import claim
from erecap.session.policy import SessionPolicy
from erecap.session.prefill import SessionPrefill

_log = logging.getLogger(__name__)
OUTDATED = -1  # the revision of keys that were being read again; no model has it


class ComposedSession:
    """A conversation, a policy and an engine, and how they begin a call; `ReplanSession` adds the calls."""

    conversation: Conversation
    policy: SessionPolicy
    engine: SessionEngine
    prefill: SessionPrefill
    edits: SessionEdits
    _one_call: OneCall
    _revision: int | None  # of the model when the stored keys were computed

    def _compose(self, conversation: Conversation, policy: SessionPolicy, engine: SessionEngine) -> None:
        prefill = SessionPrefill(conversation, policy, engine)
        edits = SessionEdits(prefill)
        # One statement, without calls: an interrupt comes before it or after it.
        self.conversation, self.policy, self.engine, self.prefill, self.edits = (
            conversation, policy, engine, prefill, edits
        )  # fmt: skip
        claim(engine, self)

    def _begin_call(self) -> None:
        """Finish what an interrupted call left undone, and follow a model that was changed since the last call."""
        self.prefill.settle()
        revision = self.engine.revision
        if revision == self._revision:
            return
        if self._revision is not None and self.engine.tokens:
            _log.warning(
                "the model was changed (weights, modules or hooks), or its engine has lost keys and values: "
                "what the session has read is read again"
            )
            self._revision = OUTDATED
            try:
                self.edits.read_again()
            except BaseException:
                self.prefill.settle()  # the next call reads again
                raise
        self._revision = revision

    # What is known ----------------------------------------------------------------------------------------

    @property
    def token_ids(self) -> list[int]:
        """Ids read so far, generated ones as they were generated; without forgotten ones (`rewind_tokens`)."""
        return list(self.conversation.transcript.ids)

    @property
    def evicted_tokens(self) -> int:
        """Number of tokens read that are no longer stored, in the layer that stores most.

        It follows from what the engine stores, so it is right after every call, edit, roll-back and restore; 0 says
        that everything read is still stored. Tokens that pruning kept from the deeper layers are not evicted.
        """
        return self.engine.tokens - self.engine.stored().most

    @property
    def edited_tokens(self) -> int:
        """Of the evicted tokens, those that edits of the chat dropped (`ChatEdits`)."""
        return sum(made.tokens for made in self.conversation.transcript.edits)

    @property
    def budget(self) -> Budget:
        """The budget of stored tokens when a call returns."""
        return self.policy.budget

    @property
    def outlives_window(self) -> bool:
        """True if it evicts where a chat outgrows the model's window, instead of leaving messages out."""
        return self.policy.outlives_window(self.engine)

    @property
    def scheduler(self) -> Scheduler | None:
        """The scheduler, which decides about each call."""
        return self.policy.scheduler

    @property
    def takes_old_plan(self) -> bool:
        """True if a planner should hand over `old_plan` and `trigger`, because a scheduler decides by them."""
        return self.scheduler is not None

    @property
    def cache(self) -> Any:
        """The `PrunedCache` of the engine `transformers`; other engines have none."""
        cache = getattr(self.engine, "cache", None)
        if cache is None:
            raise AttributeError(f"the engine {self.engine.name!r} has no PrunedCache; ask session.engine.stored()")
        return cache
