"""The scheduler in a call: its inputs, and carrying out its decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erecap.decoding.draft import LookupDraft
from erecap.decoding.loop import Draft
from erecap.engines.protocol import SessionEngine
from erecap.generation import Decision
from erecap.scheduling.rules import State
from erecap.session.automatic import make_room
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.policy import SessionPolicy


def schedule(
    policy: SessionPolicy,
    engine: SessionEngine,
    transcript: Transcript,
    part: ChatPart,
    coming: Sequence[Mark],
    *,
    new: int,
    reused: int,
    rewritten: int,
    plan_tokens: int,
    plan_passes: int | None,
    old_plan_tokens: int,
    trigger: str | None,
) -> Decision | None:
    """The scheduler's decision for a call, with evicting and repositioning done; None without a scheduler.

    The caller carries out re-reading, reusing a plan and deferring. The session's own chat cannot be re-read, because
    its texts are not kept.

    Args:
        coming: marks of messages that are about to be read.
        new, reused, rewritten: tokens to read, found stored, and given up.
        plan_tokens, plan_passes, old_plan_tokens, trigger: see `State`.
    """
    scheduler = policy.scheduler
    if scheduler is None:
        return None
    state = State(
        kv=engine.stored().most,
        new=new,
        rewritten=rewritten,
        positions=engine.next_position,
        plan_tokens=plan_tokens,
        plan_passes=plan_passes,
        old_plan_tokens=old_plan_tokens,
        trigger=trigger,
        protected=policy.protected(engine, transcript, part),
        chat=reused + new if part.offset == 0 else None,
    )
    # Under the session's budget of now: a share of all tokens grows with them. An automatic one is no limit to the
    # scheduler, so that it drops nothing to save time.
    scheduler.budget_tokens = policy.budget.tokens(transcript.tokens + new)
    decision = scheduler.decide(state)
    if decision.action in ("evict", "splice"):
        target = scheduler.target_kv(state)
        if policy.budget.automatic and decision.action == "splice":
            make_room(policy, engine, new, transcript, part, coming)
        if target < state.kv:
            policy.enforce(engine, transcript, part, coming, limit=target)
    if decision.action == "splice":
        engine.reposition()
    return decision


def stops_with_plan(decision: Decision | None, plan: Sequence[int]) -> Callable[[list[int]], bool]:
    """Return True if an answer is the old plan and nothing more, where the scheduler decided that this is enough.

    The plan's tokens are drafts, verified in one pass. If all of them are what the model chooses, the answer ends there
    instead of going on; at the first other choice it becomes an ordinary answer.
    """
    reuse = decision is not None and decision.action == "reuse-plan"
    return lambda answer: reuse and answer == list(plan)


class PlanDraft(LookupDraft):
    """Proposes the rest of the old plan in one piece, as long as the answer repeats it; then looks up as usual."""

    def __init__(self, plan: Sequence[int], sources: Sequence[Sequence[int]], past: Sequence[int]) -> None:
        super().__init__([plan, *sources], past=past)
        self._plan = list(plan)

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """As `LookupDraft.propose`; the first proposal may be the whole plan."""
        return _rest(self._plan, generated) or super().propose(generated, pending)


class PlanFirst:
    """Proposes the rest of the old plan in one piece, as long as the answer repeats it; then what `draft` proposes."""

    def __init__(self, plan: Sequence[int], draft: Draft) -> None:
        self._plan, self._draft = list(plan), draft
        self._drafts = False  # the newest proposal is the draft's

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`."""
        rest = _rest(self._plan, generated)
        self._drafts = not rest
        return rest or self._draft.propose(generated, pending)

    def learn(self, proposed: int, accepted: int) -> None:
        """Tell the draft what became of its own proposal."""
        if self._drafts:
            self._draft.learn(proposed, accepted)


def _rest(plan: list[int], generated: Sequence[int]) -> list[int]:
    """What follows in the plan, where it begins with all that was generated; else nothing."""
    done = len(generated)
    return plan[done:] if list(generated) == plan[:done] else []
