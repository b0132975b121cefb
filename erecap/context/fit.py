"""Making a chat fit a model's window: drop the oldest whole messages, then trim long ones in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from erecap.errors import BudgetError
from erecap.generation import Message

MARKER = " [...] "  # stands where text was cut out

CountTokens = Callable[[Sequence[Message]], int]

# Trimming stops when what was kept is within this share of what would just fit; counting tokens is not free.
_SLACK = 0.02
_STEPS = 8  # of the limit: old messages are dropped by that share of it


@dataclass(frozen=True)
class Fitted:
    """Messages that fit, and the count of what was left out."""

    messages: list[Message]
    dropped: int = 0  # whole messages left out
    truncated_tokens: int = 0  # tokens cut out of the middle of messages, net of the markers


def fit_messages(messages: Sequence[Message], count_tokens: CountTokens, limit: int) -> Fitted:
    """The part of `messages` that fits into `limit` tokens.

    1. The oldest messages after the head are dropped. The head is everything up to the first user message;
       system messages are never dropped. Where roles alternate they still do, since many chat templates
       demand it: so an assistant message goes together with the user message after it. They go by the eighth of
       the limit: a chat that grows from call to call then loses the same messages for several calls, and what was
       read or cached of it stays good, where dropping just enough would change its beginning at every call.
    2. If that is not enough, the newest message is trimmed in the middle, down to a quarter of the window;
       then the first user message, but not its goal (a `protect` span that starts at 0); then the other
       messages that are left; then the newest again, down to nothing.

    `protect` spans follow their text; spans of removed text are dropped.

    Args:
        count_tokens: tokens of the rendered chat, generation prompt included; must not fall as text is added.
        limit: tokens that may be used, at least 1.

    Raises:
        BudgetError: system and goal alone do not fit.
    """
    total = count_tokens(messages)
    if total <= limit:
        return Fitted(list(messages))
    kept, total = _drop_by_steps(messages, count_tokens, limit, total)
    dropped = len(messages) - len(kept)
    before = total
    for index, floor_tokens in _stages(kept, limit):
        if total <= limit:
            break
        kept[index], total = _trim(kept, index, floor_tokens, count_tokens, limit, total)
    if total > limit:
        raise BudgetError(
            f"system and goal alone take {total} tokens; at most {limit} fit. Shorten them or raise the limit"
        )
    return Fitted(kept, dropped, max(0, before - total))


def _drop_by_steps(
    messages: Sequence[Message], count_tokens: CountTokens, limit: int, total: int
) -> tuple[list[Message], int]:
    """`drop_oldest`, of which a whole number of steps goes if there is that much."""
    step = max(1, limit // _STEPS)
    goal = total - math.ceil((total - limit) / step) * step
    kept, left = drop_oldest(messages, count_tokens, goal, total)
    return (kept, left) if left <= goal else drop_oldest(messages, count_tokens, limit, total)


def _head(messages: Sequence[Message]) -> int:
    """Number of messages in the head; without a user message, the system messages at the start."""
    for index, message in enumerate(messages):
        if message["role"] == "user":
            return index + 1
    return next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))


def drop_oldest(
    messages: Sequence[Message], count_tokens: CountTokens, limit: int, total: int
) -> tuple[list[Message], int]:
    """Leave out as few of the oldest messages after the head as needed, or as many as possible.

    The newest message stays whole, and roles go on alternating where they do.

    Args:
        total: tokens of `messages` as they are.

    Returns:
        The messages that are left, and their tokens; these may exceed `limit` when nothing more can go.
    """
    head = _head(messages)
    roles = [message["role"] for message in messages]
    alternates = all(a != b for a, b in pairwise(roles))
    before = roles[head - 1] if head else ""
    cuts = [cut for cut in range(head + 1, len(messages)) if not alternates or roles[cut] != before]

    def without(cut: int) -> list[Message]:
        saved = [message for message in messages[head:cut] if message["role"] == "system"]
        return [*messages[:head], *saved, *messages[cut:]]

    if not cuts:
        return list(messages), total
    low, high = 0, len(cuts) - 1  # the answer is the first cut that fits, or the last cut
    while low < high:
        middle = (low + high) // 2
        if count_tokens(without(cuts[middle])) <= limit:
            high = middle
        else:
            low = middle + 1
    kept = without(cuts[low])
    return kept, count_tokens(kept)


def _stages(messages: Sequence[Message], limit: int) -> list[tuple[int, int]]:
    """Messages to trim, in order, each with the tokens of the window that it may keep."""
    newest = len(messages) - 1
    first = _head(messages) - 1
    others = [index for index in range(newest) if index != first]
    order = [(newest, limit // 4), (first, 0), *((index, 0) for index in others), (newest, 0)]
    return [(index, floor) for index, floor in order if index >= 0 and messages[index]["role"] != "system"]


def _trim(
    messages: list[Message], index: int, floor_tokens: int, count_tokens: CountTokens, limit: int, total: int
) -> tuple[Message, int]:
    """Cut the middle out of `messages[index]` until the chat fits; keeps about `floor_tokens` of it or more."""
    message = messages[index]
    size = len(message["content"])
    pinned = _goal_end(message) if index == _head(messages) - 1 else 0

    def at(characters: int) -> tuple[Message, int]:
        candidate = _cut(message, pinned, characters)
        return candidate, count_tokens([*messages[:index], candidate, *messages[index + 1 :]])

    low = 0
    smallest, fewest = at(0)
    if floor_tokens:
        per_token = (size - pinned) / max(1, total - fewest)
        low = min(size - pinned, int(floor_tokens * per_token))
        smallest, fewest = at(low)
    if fewest >= total:
        return message, total  # too short for a marker
    if fewest > limit:
        return smallest, fewest
    high = size - pinned
    best = (smallest, fewest)
    # Tokens grow about evenly with characters, so interpolate between a length that fits and one that does
    # not.
    high_total = total
    while best[1] < limit * (1 - _SLACK) and high - low > 16:
        share = (limit - best[1]) / max(1, high_total - best[1])
        guess = low + max(1, min(high - low - 1, int((high - low) * min(max(share, 0.05), 0.95))))
        candidate, tokens = at(guess)
        if tokens <= limit:
            low, best = guess, (candidate, tokens)
        else:
            high, high_total = guess, tokens
    return best


def _goal_end(first: Message) -> int:
    """Leading characters of the first user message that trimming leaves alone."""
    return max((end for start, end in first.get("protect", []) if start == 0), default=0)


def _cut(message: Message, pinned: int, characters: int) -> Message:
    """`message` with its pinned start and `characters` more: half from the front, half from the end."""
    content = message["content"]
    head = _word_end(content, pinned, pinned + (characters + 1) // 2)
    tail = _word_start(content, len(content) - characters // 2)
    if head >= tail:
        return message
    shift = head + len(MARKER) - tail
    # A copy: other keys that a host put on the message stay.
    cut: Message = {**message, "content": content[:head] + MARKER + content[tail:]}
    if "protect" in message:
        spans: list[tuple[int, int]] = []
        for start, end in message["protect"]:
            if start < min(end, head):
                spans.append((start, min(end, head)))
            if max(start, tail) < end:
                spans.append((max(start, tail) + shift, end + shift))
        cut["protect"] = spans
    return cut


_NEAR = 24  # characters within which a cut is moved to a word's border


def _word_end(content: str, lowest: int, place: int) -> int:
    """`place` moved back to the end of a word, if one ends nearby."""
    if place >= len(content) or content[place].isspace():
        return place
    for near in range(place, max(lowest, place - _NEAR), -1):
        if content[near - 1].isspace():
            return near - 1
    return place


def _word_start(content: str, place: int) -> int:
    """`place` moved on to the start of a word, if one starts nearby."""
    if place <= 0 or place >= len(content) or content[place - 1].isspace():
        return place
    for near in range(place, min(len(content), place + _NEAR)):
        if content[near].isspace():
            return near + 1
    return place
