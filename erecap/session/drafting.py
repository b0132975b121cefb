"""Drafts of a session: its conversation's text for them, and one draft for each answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.decoding.drafts.acceptance import Acceptance
from erecap.decoding.drafts.costs import PassCost, Passes, calibrated_cost, reference_cost
from erecap.decoding.drafts.published import PromptLookupDraft, SuffixDraft
from erecap.decoding.drafts.suffix import AutomatonDraft
from erecap.decoding.drafts.texts import ConversationText, DraftMemory
from erecap.decoding.loop import Draft
from erecap.generation import AllowedTokens
from erecap.registries import PRICED_DRAFTS, SHARED_DRAFTS
from erecap.session.config import SessionConfig, draft_way
from erecap.session.conversation.conversation import Conversation
from erecap.session.schedule_call import PlanDraft, PlanFirst

SEARCHING = (*PRICED_DRAFTS, "suffix")  # ways that search the conversation's text


class SessionDrafts:
    """Makes the draft of each answer, by the way that the session names.

    Args:
        cost: of a pass of decoding.
        memory: answers of other conversations to draft from, and to add this one's to; None: of none.

    Attributes:
        acceptance: shares of drafted tokens that were right in this session; a memory counts its own.
    """

    def __init__(self, cost: PassCost, memory: DraftMemory | None = None) -> None:
        self.memory = memory
        self._cost = cost
        self._text = ConversationText()
        self.acceptance = Acceptance()

    @classmethod
    def of(cls, config: SessionConfig, model: Any) -> SessionDrafts:
        """The drafts of a session with this configuration, on this model."""
        if config.draft_cost is not None:
            return cls(calibrated_cost(config.draft_cost), config.draft_memory)
        return cls(reference_cost(_passes(config, model)), config.draft_memory)

    def fork(self) -> SessionDrafts:
        """Those of a fork: its text is its own from now on, and a memory is shared."""
        twin = SessionDrafts(self._cost, self.memory)
        twin._text, twin.acceptance = self._text.fork(), self.acceptance.copy()
        return twin

    def fresh(self) -> SessionDrafts:
        """Those of a session that has read nothing."""
        return SessionDrafts(self._cost, self.memory)

    def forget(self) -> None:
        """Drop the conversation's text, which an interrupted call may have left half made; it is read anew."""
        self._text = ConversationText()

    def follow(self, way: bool | str, conversation: Conversation) -> None:
        """Take in what was read, where the way searches the conversation; then an answer begins at once."""
        if draft_way(way) not in SEARCHING:
            return
        try:
            self._text.follow(conversation.transcript.ids, conversation.transcript.forgotten)
        except BaseException:  # an interrupt
            self.forget()
            raise

    def draft(
        self,
        way: bool | str,
        conversation: Conversation,
        *,
        plan: Sequence[int],
        given: Sequence[int],
        new: Sequence[int],
        stored: int,
        allowed: AllowedTokens | None,
        ends: Sequence[int],
        tokens: int,
    ) -> Draft | None:
        """The draft of the answer to what was read last; None where the session does not draft.

        Args:
            plan: the rest of the old plan, proposed as a whole as long as the answer repeats it.
            given: text that the answer may repeat.
            new: tokens read in this call.
            stored: tokens stored.
            allowed: ids that the answer may go on with.
            ends, tokens: ids that end it, and how many tokens it may have.
        """
        name, transcript = draft_way(way), conversation.transcript
        if name is None:
            return None
        if name == "lookup":
            return PlanDraft(plan, [given, conversation.previous, new], transcript.ids)
        memory = self.memory if name in SHARED_DRAFTS else None
        draft: Draft
        if name == "prompt-lookup":
            draft = PromptLookupDraft(transcript.ids)
        else:
            self.follow(way, conversation)
            if name == "suffix":
                draft = SuffixDraft(self._text, memory)
            else:
                draft = AutomatonDraft(
                    self._text, stored, self._cost, given=[plan, given], memory=memory, allowed=allowed,
                    ends=ends, tokens=tokens,
                    acceptance=self.acceptance if memory is None else memory.acceptance,
                )  # fmt: skip
        return PlanFirst(plan, draft) if plan else draft

    def answered(self, way: bool | str, ids: Sequence[int]) -> None:
        """Let others draft from an answer, where the way is one of those that do."""
        if self.memory is not None and draft_way(way) in SHARED_DRAFTS:
            self.memory.add(ids)


def _passes(config: SessionConfig, model: Any) -> Passes:
    """The kind of passes whose reference costs hold for a session."""
    if (config.engine if isinstance(config.engine, str) else config.engine.name) == "llamacpp":
        return "llamacpp"
    if getattr(getattr(model, "device", None), "type", "cpu") != "cpu":
        return "accelerator"
    return "own" if config.decode_weights == "same" else "packed"
