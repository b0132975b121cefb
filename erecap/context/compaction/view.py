"""The view of one conversation for a remote model: append only, until shortening is due or pays.

Servers find the beginning of a prompt in their cache as far as it is the same as before, and ask a fraction of the
price for it. So the shown chat must not change in front at every call. It is compacted in one go, far enough that many
calls follow in which it is only appended to.

Of the conversation itself only digests are kept. So a host may retell its past (its newest message in other words, a
window that slides, images that become text): what both versions share is shown as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erecap.context.compaction.alignment import common_beginning, message_key
from erecap.context.compaction.carrying import Edits, carried, edits_of, shown
from erecap.context.compaction.compact import Compacted, Rank, compact_messages
from erecap.context.compaction.mask import CountTokens, marker_for
from erecap.cost.prices import ModelPrices, edit_pays
from erecap.generation import Message

MIN_GAIN = 0.05  # share of the shown tokens that a compaction has to save where it is not enough, or only cheaper
SOON = 4  # calls; a compaction that follows another within so many is counted as thrashing
_BYTES = 200  # of memory, that a message's digests and numbers take


@dataclass(frozen=True)
class Shown:
    """One call's view of the chat."""

    messages: list[Message]
    tokens: int  # of them
    before: int  # of the whole chat
    same: int  # tokens of the leading messages that are those of the call before: what a prompt cache may hold
    compacted: bool  # in this call
    reason: str
    edited: int = 0  # records that the last compaction removed
    dropped: tuple[int, ...] = ()  # numbers of the conversation's messages that are left out
    compactions: int = 0  # of this conversation up to now
    thrashed: int = 0  # of these, soon after another
    edits: dict[str, Any] | None = None  # fields of the request by which a server drops `dropped`; all is shown then


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
        rank, thinking_first: as for `compact_messages`.

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
        thinking_first: bool = False,
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
        self._count, self._rank, self._thinking_first = count, rank, thinking_first
        self.restart()

    def restart(self) -> None:
        """Begin another conversation."""
        self.keys: list[bytes] = []  # of the conversation as it was given last
        self._roles: list[str] = []
        self._newest: Message | None = None
        self._shown: list[bytes] = []  # keys of what was shown last
        self._edits: Edits = {}
        self._goal_gone = False  # the first message of the user that was seen is no longer told
        self._edited = 0
        self._calls = self._compactions = self._thrashed = 0
        self._compacted_at: int | None = None  # the call of the last compaction

    def fork(self) -> CompactView:
        """An independent view that goes on from here."""
        other = type(self)(
            self._count, max_tokens=self.max_tokens, target_tokens=self.target_tokens, prices=self.prices,
            calls_left=self.calls_left, rank=self._rank, thinking_first=self._thinking_first,
        )  # fmt: skip
        other.__dict__.update(self.__dict__)
        other._edits = dict(self._edits)
        return other

    @property
    def memory(self) -> int:
        """Bytes that the view takes, about."""
        told = sum(len(edit.content) for edit in self._edits.values() if edit is not None)
        return _BYTES * len(self.keys) + 2 * told + (2 * len(self._newest["content"] or "") if self._newest else 0)

    def goes_on(self, messages: Sequence[Message], keys: Sequence[bytes]) -> bool:
        """Return True if `messages` are the conversation with something appended, also to its newest message."""
        same = common_beginning(self.keys, keys)
        return same == len(self.keys) or (same == len(self.keys) - 1 and self._added(messages) is not None)

    def show(self, messages: Sequence[Message]) -> Shown:
        """The messages to show for `messages`, the conversation up to now.

        Where the past was rewritten, what both versions share is shown as before; all is shown where it fits the
        target.
        """
        keys = [message_key(message) for message in messages]
        whole = self._count(messages)
        reason = self._follow(messages, keys, whole)
        view = shown(messages, self._edits)
        tokens = self._count(view) if self._edits else whole
        compacted = False
        due, target = self._full(tokens), self.target_tokens
        if target is not None and (due or (tokens > target and self.prices is not None and self.calls_left)):
            chat = self._without_goal(messages)
            shorter = compact_messages(chat, target, self._count, rank=self._rank, thinking_first=self._thinking_first)
            if self._worth_it(view, shorter, tokens, due):
                self._edits, self._edited = edits_of(messages, shorter.messages, shorter.dropped), shorter.edited
                view, tokens, compacted = shown(messages, self._edits), shorter.tokens, True
                reason = f"{shorter.reason}; " + ("the budget was full" if due else "it pays")
                self._note_compaction()
        if self._full(tokens):
            reason = f"{reason}; what is protected exceeds the budget"
        self._calls += 1
        self.keys, self._roles = keys, [message["role"] for message in messages]
        self._newest = messages[-1] if messages else None
        before, self._shown = self._shown, [message_key(message) for message in view]
        held = view[: common_beginning(before, self._shown)]
        dropped = tuple(sorted(number for number, edit in self._edits.items() if edit is None))
        return Shown(
            view, tokens, whole, self._count(held) if held else 0, compacted, reason, self._edited, dropped,
            self._compactions, self._thrashed,
        )  # fmt: skip

    def _follow(self, messages: Sequence[Message], keys: list[bytes], whole: int) -> str:
        """Bring the edits to the new version of the conversation; what has happened to its past, in words."""
        known = len(self.keys)
        same = common_beginning(self.keys, keys)
        if same == known:
            return "appended"
        added = self._added(messages) if same == known - 1 else None
        if added is not None:
            edited = self._edits.get(same)
            if edited is not None:
                self._edits[same] = type(edited)(edited.content + added, edited.spans)
            return "appended"
        if self.target_tokens is None or whole <= self.target_tokens:
            self._edits, self._edited, self._goal_gone = {}, 0, False
            return "the past was rewritten"
        self._edits, matches = carried(self._edits, self.keys, self._roles, keys, messages)
        roles = [message["role"] for message in messages]
        goal, first = _first_user(self._roles), _first_user(roles)
        if first is not None and matches[first] not in (None, goal):
            self._goal_gone = True
        if first is not None and not self._goal_gone and "assistant" not in roles[:first]:
            self._edits.pop(first, None)
        return f"the past was rewritten; {sum(at is not None for at in matches)} of its messages are as before"

    def _added(self, messages: Sequence[Message]) -> str | None:
        """The text that was appended to the newest message; None if it did not grow in this way."""
        before, number = self._newest, len(self.keys) - 1
        if before is None or number >= len(messages):
            return None
        now = messages[number]
        old, new = before["content"], now["content"]
        if not isinstance(old, str) or not isinstance(new, str) or not new.startswith(old):
            return None
        alike = message_key({**before, "content": ""}) == message_key({**now, "content": ""})
        return new[len(old) :] if alike else None

    def _without_goal(self, messages: Sequence[Message]) -> list[Message]:
        """`messages`; where the goal is no longer told, the first message of the user is blanked: it is none."""
        chat = list(messages)
        first = _first_user([message["role"] for message in messages])
        if self._goal_gone and first is not None and first < len(chat) - 1 and "protect" not in chat[first]:
            told = chat[first]
            blank: Message = {**told, "content": marker_for(told["content"] or "")}
            shorter = blank if self._count([blank]) < self._count([told]) else told
            chat[first] = {**shorter, "protect": [], "stale": [], "observations": []}
        return chat

    def _worth_it(self, view: Sequence[Message], shorter: Compacted, tokens: int, due: bool) -> bool:
        """Return True if `shorter` is to be shown from now on.

        One that brings the chat within its budget is. One that does not, because the rest is protected, has to save
        something, or the front would change at every call for next to nothing.
        """
        gain = tokens - shorter.tokens
        if due and not self._full(shorter.tokens):
            return True
        if gain < MIN_GAIN * tokens:
            return False
        return due or self._pays(view, shorter.messages, tokens, shorter.tokens)

    def _note_compaction(self) -> None:
        self._compactions += 1
        if self._compacted_at is not None and self._calls - self._compacted_at <= SOON:
            self._thrashed += 1
        self._compacted_at = self._calls

    def _full(self, tokens: int) -> bool:
        return self.max_tokens is not None and tokens > self.max_tokens

    def _pays(self, view: Sequence[Message], shorter: Sequence[Message], tokens: int, fewer: int) -> bool:
        """Return True if compacting now costs less than leaving the chat as it is for the calls that are left."""
        if self.prices is None or self.calls_left is None:
            return False
        same = common_beginning([message_key(m) for m in view], [message_key(m) for m in shorter])
        after = fewer - (self._count(shorter[:same]) if same else 0)
        prices = self.prices
        return edit_pays(tokens - fewer, max(0, after), prices.cached_input, prices.uncached, self.calls_left)


def _first_user(roles: Sequence[str]) -> int | None:
    return next((number for number, role in enumerate(roles) if role == "user"), None)
