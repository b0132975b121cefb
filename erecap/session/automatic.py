"""Sessions under `Budget.auto`: they evict before a read, and only where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.budget import LEFT_TO_SAVE, Limit
from erecap.cost.model import CostModel
from erecap.engines.protocol import SessionEngine
from erecap.errors import BudgetError
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import GOAL, HEAD, OPEN
from erecap.session.policy import SessionPolicy


def make_room(
    policy: SessionPolicy,
    engine: SessionEngine,
    coming: int,
    transcript: Transcript,
    part: ChatPart,
    marks: Sequence[Mark],
) -> int:
    """Evict if the next chunk of `coming` tokens does not fit beside the stored tokens and the answer.

    Args:
        marks: marks of messages that are not read to their end yet.

    Returns:
        Tokens of that chunk: as many as the engine would read at once, fewer where only those fit.

    Raises:
        BudgetError: system and goal leave no room.
    """
    chunk = min(engine.chunk, coming)
    while True:
        stored = engine.stored()
        count, limit = len(stored.indices), _limit(policy, engine, transcript.tokens)
        if limit is None or count + chunk <= limit.most:
            return chunk
        priority = policy.priorities(stored.indices, transcript, part, marks)
        head = int((priority == HEAD).sum())
        target = min(limit.most - min(1, coming), max(limit.down_to, head))
        if head > target:
            head += policy.head_to_come(transcript, part, marks)
            raise BudgetError(
                f"system, goal and format take {head:,} tokens, and {limit.most:,} fit {limit.reason}; "
                f"shorten them{GOAL}"
            )
        if count <= target:
            return min(chunk, limit.most - count)
        new = f" and {chunk:,} new" if chunk else ""
        policy.evict_together(engine, stored, priority, target)
        policy.dropped_because = (
            f"{count:,} stored{new} tokens pass the {limit.most:,} that fit {limit.reason}: evicted down to {target:,}"
        )


def drop_what_pays(
    policy: SessionPolicy,
    engine: SessionEngine,
    transcript: Transcript,
    part: ChatPart,
    marks: Sequence[Mark],
    *,
    new: int,
    plan_tokens: int,
    passes: int | None,
) -> None:
    """Evict half of the stored tokens where that is predicted to save the share of a call that the budget names."""
    cost, share = policy.config.cost, policy.budget.pays
    stored = engine.stored()
    count = len(stored.indices)
    if cost is None or share is None or not count:
        return
    priority = policy.priorities(stored.indices, transcript, part, marks)
    target = max(int(LEFT_TO_SAVE * count), int((priority > OPEN).sum()))
    saved, now, then = saving(cost, count, target, new=new, plan_tokens=plan_tokens, passes=passes)
    if target < count and saved >= share:
        policy.evict_together(engine, stored, priority, target)
        policy.dropped_because = (
            f"with {target:,} instead of {count:,} stored tokens the call is predicted to take {then:,.1f} instead of "
            f"{now:,.1f} ms, which saves {saved:.0%}, and {share:.0%} were asked for"
        )


def saving(
    cost: CostModel, stored: int, target: int, *, new: int, plan_tokens: int, passes: int | None = None
) -> tuple[float, float, float]:
    """Share of a call's time that evicting down to `target` first would save, and the milliseconds of both."""
    now = cost.predict_replan(new, stored, plan_tokens, passes=passes)
    then = cost.predict_replan(new, target, plan_tokens, passes=passes) + cost.predict_evict(stored)
    return (1 - then / now if now > 0 else 0.0), now, then


def _limit(policy: SessionPolicy, engine: SessionEngine, read: int) -> Limit | None:
    return policy.budget.limit(
        read=read,
        # Where the engine cannot reposition, positions bound what is read, whatever is stored.
        window=engine.window if policy.why_fixed(engine) is None else None,
        room=policy.room,
        bytes_per_token=engine.bytes_per_token,
        stored=len(engine.stored().indices),
        stored_bytes=engine.kv_bytes(),
    )
