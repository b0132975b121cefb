"""What a scheduler is told before a call of a session, and doing what it decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erecap.decoding.draft import LookupDraft
from erecap.engines.transformers import TransformersEngine
from erecap.generation import Decision, FinishReason, Generation, Timing, Usage
from erecap.scheduling.rules import Scheduler, State
from erecap.session.automatic import make_room
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import OPEN, tiers

DEFERRED: FinishReason = "deferred"


def look(
    reader: TransformersEngine,
    transcript: Transcript,
    part: ChatPart,
    *,
    new: int,
    reused: int,
    rewritten: int,
    plan_tokens: int,
    plan_passes: int | None,
    old_plan_tokens: int,
    trigger: str | None,
) -> State:
    """The state of a session that is about to read `new` tokens of a chat and to generate `plan_tokens`.

    A chat of the session's own is not at hand as a whole, so that reading it anew is no choice there.
    """
    index = reader.cache.stored_index().cpu()
    sinks = reader.cache.config.sinks
    protected = 0
    if len(index):
        tier = tiers(index, transcript.known_marks, part.claims, part.protected, sinks)
        protected = int((tier > OPEN).sum())
    return State(
        kv=max(reader.cache.kept_lengths(), default=0),
        new=new,
        rewritten=rewritten,
        positions=reader.next_position,
        plan_tokens=plan_tokens,
        plan_passes=plan_passes,
        old_plan_tokens=old_plan_tokens,
        trigger=trigger,
        protected=protected,
        chat=reused + new if part.offset == 0 else None,
    )


def decide(scheduler: Scheduler, reader: TransformersEngine, transcript: Transcript, state: State) -> Decision:
    """The scheduler's decision under the session's budget of now (a share of all tokens grows with them).

    An automatic budget is no limit to it, so that it drops nothing to save time.
    """
    scheduler.budget_tokens = reader.budget.tokens(transcript.tokens + state.new)
    return scheduler.decide(state)


def stops_with_plan(decision: Decision | None, plan: Sequence[int]) -> Callable[[list[int]], bool]:
    """Whether an answer is the old plan and nothing more, where that was decided to be enough.

    The plan's tokens are drafts, verified in one pass. If all of them are what the model chooses, the answer ends there
    instead of going on; at the first other choice it becomes an ordinary answer.
    """
    reuse = decision is not None and decision.action == "reuse-plan"
    return lambda answer: reuse and answer == list(plan)


def apply(
    decision: Decision,
    scheduler: Scheduler,
    state: State,
    reader: TransformersEngine,
    transcript: Transcript,
    part: ChatPart,
    coming: Sequence[Mark],
) -> None:
    """Evict and close up as decided. Reading anew, reusing a plan and putting a call off are the caller's part."""
    if decision.action not in ("evict", "splice"):
        return
    target = scheduler.target_kv(state)
    if reader.budget.automatic and decision.action == "splice":
        make_room(reader, state.new, transcript, part.claims, part.protected, coming)
    if target < state.kv:
        reader.enforce(transcript, part.claims, part.protected, coming, limit=target)
    if decision.action == "splice":
        reader.close_up()


def put_off(decision: Decision, reader: TransformersEngine, matched_ms: float, total_ms: float) -> Generation:
    """The answer to a call that was put off: none, and nothing was read."""
    usage = Usage(kv_bytes=reader.cache.kv_bytes())
    timing = Timing(tokenize_ms=matched_ms, total_ms=total_ms)
    return Generation("", DEFERRED, usage, timing, decision=decision)


class PlanDraft(LookupDraft):
    """Proposes what is left of the old plan in one piece, as long as the answer repeats it; then looks up as usual."""

    def __init__(self, plan: Sequence[int], sources: Sequence[Sequence[int]], past: Sequence[int]) -> None:
        super().__init__([plan, *sources], past=past)
        self._plan = list(plan)

    def propose(self, generated: Sequence[int]) -> list[int]:
        """As `LookupDraft.propose`; the first proposal may be the whole plan."""
        done = len(generated)
        if done < len(self._plan) and list(generated) == self._plan[:done]:
            return self._plan[done:]
        return super().propose(generated)
