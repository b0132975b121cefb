"""Which stored tokens stay when a session is over its budget.

What is protected comes first, in tiers; what the context graph calls stale goes first; a score ranks the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch

from erecap.errors import BudgetError
from erecap.session.conversation.protection_spans import Claims, numbered
from erecap.session.conversation.transcript import Mark

HEAD, PROTECTED, NEWEST, OPEN, STALE = 4.0, 3.0, 2.0, 1.0, 0.0


def tiers(
    index: torch.Tensor,
    marks: Sequence[Mark],
    messages: Claims,
    spans: Sequence[tuple[int, int, int]],
    sinks: int,
) -> torch.Tensor:
    """Tier of each stored token, the higher the longer it stays.

    Args:
        index: `(n,)` sorted places of stored tokens.
        marks: ends of the messages read.
        messages: the chat, or what of it claims anything.
        spans: protected `(message, start, end)` characters.
        sinks: first tokens of the sequence that always stay.

    Returns:
        `(n,)` float32: HEAD for sinks, system and what is protected up to the first user message; PROTECTED for
        other protected text; NEWEST for the last message; OPEN for the rest; STALE for what messages call stale.
    """
    tier = torch.full(index.shape, OPEN)
    tier[index < sinks] = HEAD
    by_message = {mark.message: mark for mark in marks}
    claims = numbered(messages)
    first_user = min((number for number, message in claims.items() if message["role"] == "user"), default=-1)
    last = max(claims, default=-1)
    stored = index.tolist()

    def columns(number: int, start: int, end: int) -> torch.Tensor | None:
        mark = by_message.get(number)
        low, high = mark.places(start, end) if mark is not None else (0, 0)
        low, high = bisect_left(stored, low), bisect_left(stored, high)
        return tier[low:high] if low < high else None

    for number, message in claims.items():
        for start, end in message.get("stale", ()):
            if (hit := columns(number, start, end)) is not None:
                hit.clamp_(max=STALE)
    for number, start, end in spans:
        if number == last:
            level = NEWEST
        else:
            level = HEAD if number <= first_user or claims[number]["role"] == "system" else PROTECTED
        if (hit := columns(number, start, end)) is not None:
            hit.clamp_(min=level)
    return tier


def stay(index: torch.Tensor, tier: torch.Tensor, scores: torch.Tensor, budget: int) -> torch.Tensor:
    """Which tokens stay, at most `budget` of them.

    Args:
        index, tier, scores: `(n,)`; scores are finite, higher stays longer, ties go to the newer token.

    Returns:
        `(n,)` bool.

    Raises:
        BudgetError: the HEAD tier alone exceeds the budget.
    """
    count = index.shape[0]
    if count <= budget:
        return torch.ones(count, dtype=torch.bool)
    head = int((tier == HEAD).sum())
    if head > budget:
        raise BudgetError(
            f"system, goal and format take {head} tokens, the budget is kv_tokens={budget}; "
            "raise the budget or shorten them"
        )
    # Within the newest message its two ends outlast its middle: what it is about, and what was seen last.
    order = scores.double()
    newest = (tier == NEWEST).nonzero().squeeze(1)
    if len(newest):
        place = torch.arange(len(newest), dtype=torch.float64)
        order = order.clone()
        order[newest] = (place - (len(newest) - 1) / 2).abs()
    span = float(order.max() - order.min()) + 1.0
    key = tier.double() * 2 + (order - order.min()) / span
    best = key.flip(0).argsort(descending=True, stable=True)[:budget]
    keep = torch.zeros(count, dtype=torch.bool)
    keep[count - 1 - best] = True
    return keep
