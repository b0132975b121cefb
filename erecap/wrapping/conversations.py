"""Conversations of a wrapped planner, which may serve many agents in turn, and the view of each.

A call belongs to the conversation that it shares most with, found by digests: no conversation has a name, and little
of its text is kept. The memory of all is bounded; of one that was forgotten, the length and digest of its beginning
stay, by which it is found again.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from erecap.context.compaction import CompactView, EditView, Shown
from erecap.context.compaction.alignment import align, message_key
from erecap.context.compaction.compact import Rank
from erecap.context.compaction.mask import CountTokens
from erecap.context.lines import LinePatterns, annotate
from erecap.context.turn_tags import table
from erecap.generation import Message
from erecap.wrapping.prompts import PromptTalk, digest, join_prompt

MEMORY = 64 << 20  # bytes of digests and beginnings of all conversations
_POPULAR = 16  # conversations; a message that more of them have tells none of them
_RETOLD = 3  # messages at the end that a host may tell anew without having gone back
_LIKELY = 32  # conversations whose beginnings are compared as text


@dataclass(eq=False)
class _Talk:
    view: CompactView
    prompt: PromptTalk | None = None  # of prompts that are strings
    used: int = 0  # number of its newest call among those of all

    @property
    def memory(self) -> int:
        return self.view.memory + (self.prompt.memory if self.prompt is not None else 0)


class _Beginning(NamedTuple):
    """Length and digest of a string conversation's head."""

    size: int
    digest: bytes


class Conversations:
    """Shows each of many growing conversations within a budget; the least recently used are forgotten first.

    May be used from several threads.

    Args:
        count: tokens of a chat.
        text: tokens of a text, for strings; they have no tags but those that the host writes.
        max_tokens: most tokens of a call; None: nothing is left out.
        patterns: mark observations in the host's text, where its messages do not.
        tags: how chat tags look in strings; None: those of the common formats.
        rank, thinking_first: as for `CompactView`.
        emit_edits: show chats whole, with edits for the server (`EditView`).
        memory_bytes: about the most that is remembered.
    """

    def __init__(
        self,
        count: CountTokens,
        text: Callable[[str], int],
        *,
        max_tokens: int | None,
        patterns: LinePatterns | None = None,
        tags: re.Pattern[str] | None = None,
        rank: Rank | None = None,
        thinking_first: bool = False,
        emit_edits: bool = False,
        memory_bytes: int = MEMORY,
    ) -> None:
        def of_strings(messages: Sequence[Message]) -> int:
            return sum(text(message["content"]) for message in messages)

        self._count, self._of_strings = count, of_strings
        self._max_tokens, self._patterns, self._rank = max_tokens, patterns, rank
        self._thinking_first, self._emit_edits = thinking_first, emit_edits
        self._tags = tags or table()
        self._memory = memory_bytes
        self._used: OrderedDict[_Talk, int] = OrderedDict()  # the most recently used last, each with its bytes
        self._bytes = self._calls = 0
        self._having: dict[bytes, set[_Talk]] = {}  # by message
        self._beginning: dict[_Beginning, list[_Talk]] = {}
        self._forgotten: OrderedDict[_Beginning, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def remembered(self) -> dict[str, int]:
        """Counts of what is held: `bytes`, `conversations`, `messages` that are indexed, `forgotten` beginnings."""
        with self._lock:
            return {
                "bytes": self._bytes,
                "conversations": len(self._used),
                "messages": len(self._having),
                "forgotten": len(self._forgotten),
            }

    def show_chat(self, messages: Sequence[Message], room: int | None) -> Shown:
        """The messages to show of a chat, in at most `room` tokens; None: all of them."""
        keys = [message_key(message) for message in messages]
        with self._lock:
            talk = self._talk_of_chat(messages, keys)
            self._budget(talk.view, room)
            before = talk.view.keys
            shown = talk.view.show(annotate(messages, self._patterns) if self._patterns else messages)
            self._index(talk, set(before), set(keys))
            self._use(talk)
            return shown

    def show_prompt(self, prompt: str, room: int | None) -> tuple[str, Shown, PromptTalk]:
        """The prompt to show, and the conversation that is to be told the answer (`talk.answer = ...`)."""
        with self._lock:
            talk = self._talk_of_prompt(prompt)
            assert talk.prompt is not None, "made for strings"
            self._budget(talk.view, room)
            shown = talk.view.show(talk.prompt.read(prompt))
            head = self._place(talk)
            if room is not None and shown.tokens > room and talk.prompt.divide_head():
                shown = talk.view.show(talk.prompt.read(prompt))
                self._move(talk, head)
            self._use(talk)
            return join_prompt(shown.messages), shown, talk.prompt

    # Finding

    def _talk_of_chat(self, messages: Sequence[Message], keys: list[bytes]) -> _Talk:
        """The conversation that these messages go on with, or a new one; a fork where they leave its way."""
        likely = Counter(talk for key in set(keys) for talk in self._some(self._having.get(key, ())))
        ranks = {}
        for talk, common in likely.items():
            goes_on = talk.view.goes_on(messages, keys)
            ranks[talk] = (goes_on, len(talk.view.keys) if goes_on else common, talk.used)
        if not ranks:
            return _Talk(self._new_view())
        found = max(ranks, key=ranks.__getitem__)
        if ranks[found][0]:
            return found
        old = found.view.keys
        matches = [at for at in align(old, keys) if at is not None]
        if 2 * len(matches) <= min(len(old), len(keys)):
            return _Talk(self._new_view())
        if matches[-1] >= len(old) - _RETOLD:
            return found
        return _Talk(found.view.fork())

    def _some(self, talks: Iterable[_Talk]) -> Iterable[_Talk]:
        return talks if isinstance(talks, set) and len(talks) <= _POPULAR else ()

    def _talk_of_prompt(self, prompt: str) -> _Talk:
        """The conversation whose string `prompt` goes on with, or a new one; a fork where it leaves its way."""
        best, found = -1, None
        for beginning in self._beginnings_of(prompt):
            for talk in self._beginning.get(beginning, ()):
                assert talk.prompt is not None, "indexed by it"
                shared = talk.prompt.shared(prompt)
                reach = len(talk.prompt.head) + sum(part.size for part in talk.prompt.parts[:shared])
                if reach > best:
                    best, found = reach, (talk, shared)
        if found is not None:
            talk, shared = found
            assert talk.prompt is not None, "indexed by it"
            if shared >= len(talk.prompt.parts) - 1:
                return talk
            return self._added(_Talk(talk.view.fork(), talk.prompt.fork(shared)))
        known = max(self._beginnings_of(prompt, self._forgotten), default=None)
        head = prompt[: known.size] if known is not None else self._retold(prompt)
        new = PromptTalk(head or prompt, self._patterns, self._tags, may_divide=head is None)
        return self._added(_Talk(self._new_view(strings=True), new))

    def _retold(self, prompt: str) -> str | None:
        """The head of a prompt that tells the first one of some conversation in other words."""
        likely = [talk.prompt for talk in reversed(self._used) if talk.prompt is not None][:_LIKELY]
        heads = (talk.retold_head(prompt) for talk in likely)
        return next((head for head in heads if head is not None), None)

    def _beginnings_of(self, prompt: str, among: Iterable[_Beginning] | None = None) -> list[_Beginning]:
        """The heads, of all or of those in `among`, that `prompt` begins with."""
        known = self._beginning if among is None else among
        sizes = sorted({beginning.size for beginning in known})
        made = {size: _Beginning(size, digest(prompt[:size])) for size in sizes if size <= len(prompt)}
        return [beginning for beginning in made.values() if beginning in known]

    # Remembering

    def _added(self, talk: _Talk) -> _Talk:
        self._beginning.setdefault(self._place(talk), []).append(talk)
        return talk

    def _place(self, talk: _Talk) -> _Beginning:
        assert talk.prompt is not None, "of strings only"
        return _Beginning(len(talk.prompt.head), digest(talk.prompt.head))

    def _move(self, talk: _Talk, before: _Beginning) -> None:
        """Find `talk` by its new head from now on."""
        self._left(talk, before)
        self._added(talk)

    def _left(self, talk: _Talk, place: _Beginning) -> None:
        others = [other for other in self._beginning.get(place, ()) if other is not talk]
        if others:
            self._beginning[place] = others
        else:
            self._beginning.pop(place, None)

    def _index(self, talk: _Talk, before: set[bytes], now: set[bytes]) -> None:
        for key in now if talk not in self._used else now - before:
            self._having.setdefault(key, set()).add(talk)
        if talk in self._used:
            self._unindex(talk, before - now)

    def _unindex(self, talk: _Talk, keys: Iterable[bytes]) -> None:
        for key in keys:
            having = self._having.get(key, set())
            having.discard(talk)
            if not having:
                self._having.pop(key, None)

    def _use(self, talk: _Talk) -> None:
        """Note that `talk` was used now, and forget others where memory is short."""
        self._bytes += talk.memory - self._used.pop(talk, 0)
        self._used[talk] = talk.memory
        self._calls += 1
        talk.used = self._calls
        while self._bytes > self._memory and len(self._used) > 1:
            oldest, size = self._used.popitem(last=False)
            self._bytes -= size
            if oldest.prompt is None:
                self._unindex(oldest, set(oldest.view.keys))
                continue
            place = self._place(oldest)
            self._left(oldest, place)
            self._forgotten[place] = None
            if len(self._forgotten) > self._memory >> 9:
                self._forgotten.popitem(last=False)

    def _budget(self, view: CompactView, room: int | None) -> None:
        """Set what this call may show; tools take a part of the budget, and may change from call to call."""
        if room is not None:
            view.max_tokens, view.target_tokens = room, max(1, int(0.6 * room))

    def _new_view(self, *, strings: bool = False) -> CompactView:
        count = self._of_strings if strings else self._count
        kind = EditView if self._emit_edits else CompactView
        return kind(count, max_tokens=self._max_tokens, rank=self._rank, thinking_first=self._thinking_first)
