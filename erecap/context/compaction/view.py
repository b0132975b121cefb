"""The view of one conversation for a remote model: append only, until shortening is due or pays.

Servers find the beginning of a prompt in their cache as far as it is the same as before, and ask a fraction of the
price for it. So the shown chat must not change in front at every call. It is compacted in one go, far enough that many
calls follow in which it is only appended to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erecap.context.compaction.compact import Rank, compact_messages
from erecap.context.compaction.mask import CountTokens
from erecap.cost.prices import ModelPrices, edit_pays
from erecap.generation import Message


@dataclass(frozen=True)
class Shown:
    """One call's view of the chat."""

    messages: list[Message]
    tokens: int  # of them
    before: int  # of the whole chat
    same: int  # tokens of the leading messages that are those of the call before: what a prompt cache may hold
    compacted: bool  # in this call
    reason: str
    edited: int = 0  # records that the last compaction shortened or removed
    dropped: tuple[int, ...] = ()  # numbers of the conversation's messages that are left out


class CompactView:
    """Shows a growing conversation within a budget.

    Args:
        count: tokens of a chat.
        max_tokens: bound of the shown chat, unless protected text alone exceeds it; None: nothing is left out.
        target_tokens: tokens that a compaction leaves; None: six tenths of `max_tokens`. The lower, the rarer are
            compactions, and the more is removed by one.
        prices: of the model; with `calls_left`, the chat is also compacted before it must be where that costs less
            (`erecap.cost.prices.edit_pays`).
        calls_left: how many calls are expected to follow; None: unknown, nothing is compacted before it must be.
        rank: as for `compact_messages`.

    Raises:
        ValueError: budgets below 1, a target above the maximum, or one without a maximum.
    """

    def __init__(
        self,
        count: CountTokens,
        *,
        max_tokens: int | None,
        target_tokens: int | None = None,
        prices: ModelPrices | None = None,
        calls_left: int | None = None,
        rank: Rank | None = None,
    ) -> None:
        target = target_tokens
        if max_tokens is not None:
            target = max(1, int(0.6 * max_tokens)) if target is None else target
            if not 1 <= target <= max_tokens:
                raise ValueError(f"target_tokens: got {target}; allowed: 1 to max_tokens, {max_tokens}")
        elif target is not None:
            raise ValueError(f"target_tokens: got {target}; without max_tokens nothing is compacted, leave it out")
        self.max_tokens, self.target_tokens = max_tokens, target
        self.prices, self.calls_left = prices, calls_left
        self._count, self._rank = count, rank
        self.restart()

    def restart(self) -> None:
        """Begin another conversation."""
        self._given: list[Message] = []
        self._view: list[Message] = []
        self._edited = 0
        self._dropped: tuple[int, ...] = ()

    def show(self, messages: Sequence[Message]) -> Shown:
        """The messages to show for `messages`, the conversation up to now. A rewritten past begins anew."""
        known, before = len(self._given), self._view
        same = _alike(self._given, messages)
        reason = "appended"
        if same == known:
            view = [*before, *messages[same:]]
        elif same == known - 1 < len(messages) and _extended(self._given[same], messages[same]):
            newest = {**before[-1], "content": before[-1]["content"] + _added(self._given[same], messages[same])}
            view = [*before[:-1], newest, *messages[same + 1 :]]  # type: ignore[list-item]
        else:
            view, reason = list(messages), "the past was rewritten"
            self._edited, self._dropped = 0, ()
        whole, tokens = self._count(messages), self._count(view)
        compacted = False
        due, target = self._full(tokens), self.target_tokens
        if target is not None and (due or (tokens > target and self.prices is not None and self.calls_left)):
            shorter = compact_messages(messages, target, self._count, rank=self._rank)
            if shorter.tokens < tokens and (due or self._pays(view, shorter.messages, tokens, shorter.tokens)):
                view, tokens, compacted = shorter.messages, shorter.tokens, True
                self._edited, self._dropped = shorter.edited, shorter.dropped
                reason = f"{shorter.reason}; " + ("the budget was full" if due else "it pays")
        if self._full(tokens):
            reason = f"{reason}; what is protected exceeds the budget"
        self._given, self._view = list(messages), view
        held = view[: _alike(before, view)]
        cached = self._count(held) if held else 0
        return Shown(view, tokens, whole, cached, compacted, reason, self._edited, self._dropped)

    def _full(self, tokens: int) -> bool:
        return self.max_tokens is not None and tokens > self.max_tokens

    def _pays(self, view: Sequence[Message], shorter: Sequence[Message], tokens: int, fewer: int) -> bool:
        """Return True if compacting now costs less than leaving the chat as it is for the calls that are left."""
        if self.prices is None or self.calls_left is None:
            return False
        after = fewer - (self._count(shorter[:same]) if (same := _alike(view, shorter)) else 0)
        prices = self.prices
        return edit_pays(tokens - fewer, max(0, after), prices.cached_input, prices.uncached, self.calls_left)


def _alike(one: Sequence[Message], other: Sequence[Message]) -> int:
    """Number of leading messages that say the same."""
    number = 0
    for a, b in zip(one, other, strict=False):
        if _said(a) != _said(b):
            break
        number += 1
    return number


def _said(message: Message) -> dict:
    return {key: value for key, value in message.items() if key not in ("protect", "stale", "observations")}


def _extended(before: Message, now: Message) -> bool:
    texts = before["content"], now["content"]
    if not all(isinstance(text, str) for text in texts):
        return False
    return texts[1].startswith(texts[0]) and _said({**before, "content": ""}) == _said({**now, "content": ""})


def _added(before: Message, now: Message) -> str:
    return now["content"][len(before["content"]) :]
