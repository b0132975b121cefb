"""Eviction priorities of stored tokens, and the choice of tokens to keep within a budget. Without torch.

Protected tokens have a high priority; tokens that the context graph calls stale go first; a score ranks the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from erecap.errors import BudgetError
from erecap.session.conversation.protection_spans import Claims, numbered
from erecap.session.conversation.transcript import Mark

HEAD, PROTECTED, NEWEST, OPEN, STALE, THOUGHT = 4.0, 3.0, 2.0, 1.0, 0.0, -1.0
# The end of a refusal: which texts have the priority HEAD.
GOAL = ": system text is never evicted, nor is the first user message, unless it says what of it to protect"


def priorities(
    indices: np.ndarray,
    marks: Sequence[Mark],
    messages: Claims,
    spans: Sequence[tuple[int, int, int]],
    sinks: int,
    thoughts: Sequence[tuple[int, int, int]] = (),
) -> np.ndarray:
    """Eviction priority of each stored token, the higher the longer it stays.

    Args:
        indices: `(n,)` rising indices of stored tokens.
        marks: ends of the messages read.
        messages: the chat, or its messages with claims.
        spans: protected `(message, start, end)` characters.
        sinks: first tokens of the sequence that always stay.
        thoughts: `(message, start, end)` characters of thinking that goes before anything else.

    Returns:
        `(n,)` float64: HEAD for sinks, system and protected text up to the first user message; PROTECTED for
        other protected text; NEWEST for the last message, unless it is the first user message and says nothing of
        what to protect: then all of it is the goal; OPEN for the rest; STALE for what messages call stale; THOUGHT
        for `thoughts`.
    """
    found = np.full(len(indices), OPEN)
    found[: np.searchsorted(indices, sinks)] = HEAD
    by_message = {mark.message: mark for mark in marks}
    claims = numbered(messages)
    first_user = min((number for number, message in claims.items() if message["role"] == "user"), default=-1)
    last = max(claims, default=-1)

    def level(number: int) -> float:
        # A first user message with spans of its own holds an observation beside the goal, which may be trimmed.
        if number == last and (number != first_user or "protect" in claims[number]):
            return NEWEST
        return HEAD if number <= first_user or claims[number]["role"] == "system" else PROTECTED

    # Stale text first, so that what is protected outlasts it where both are claimed.
    claimed = [(number, *span, STALE) for number, message in claims.items() for span in message.get("stale", ())]
    claimed += [(*span, THOUGHT) for span in thoughts]
    claimed += [(number, start, end, level(number)) for number, start, end in spans]
    tokens = [
        (*by_message[number].indices(start, end), wanted)
        for number, start, end, wanted in claimed
        if number in by_message
    ]
    columns = np.searchsorted(indices, [(low, high) for low, high, _ in tokens]).reshape(-1, 2).tolist()
    for (low, high), (_, _, wanted) in zip(columns, tokens, strict=True):
        part = found[low:high]
        (np.minimum if wanted <= STALE else np.maximum)(part, wanted, out=part)
    return found


def staying(
    priority: np.ndarray, scores: np.ndarray, budget: int, to_come: Callable[[], int] = lambda: 0
) -> np.ndarray:
    """Choose the tokens that stay, at most `budget` of them.

    Args:
        priority, scores: `(n,)` in order of token index; scores are finite, higher stays longer, ties go to the newer
            token.
        to_come: counts the tokens of priority HEAD that are still to be read, for the message of an error.

    Returns:
        `(n,)` bool.

    Raises:
        BudgetError: tokens of priority HEAD alone exceed the budget.
    """
    count = len(priority)
    if count <= budget:
        return np.ones(count, bool)
    head = int((priority == HEAD).sum())
    if head > budget:
        raise BudgetError(
            f"system, goal and format take {head + to_come()} tokens, the budget is kv_tokens={budget}; "
            f"raise the budget or shorten them{GOAL}"
        )
    # Within the newest message its two ends outlast its middle: what it is about, and what was seen last.
    order = scores.astype(np.float64)
    newest = np.flatnonzero(priority == NEWEST)
    if len(newest):
        order[newest] = np.abs(np.arange(len(newest)) - (len(newest) - 1) / 2)
    span = float(order.max() - order.min()) + 1.0
    key = priority * 2 + (order - order.min()) / span
    best = np.argsort(-key[::-1], kind="stable")[:budget]
    stay = np.zeros(count, bool)
    stay[count - 1 - best] = True
    return stay


def random_scores(indices: np.ndarray, seed: int) -> np.ndarray:
    """Uniform scores `(n,)` in [0, 1), fixed by seed and token index: those of `RandomScorer` at layer 0."""
    x = (indices + 1 + 1_000_003 + (7_368_787 * (seed + 1) & 0x7FFFFFFF)) & 0x7FFFFFFF
    for multiplier in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> 16)) * multiplier) & 0x7FFFFFFF
    x = x ^ (x >> 16)
    return x.astype(np.float32) / np.float32(1 << 31)
