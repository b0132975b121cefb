"""Conversations of a wrapped planner, which may serve several agents in turn, and the view of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from erecap.context.compaction import CompactView, Shown
from erecap.context.compaction.compact import Rank
from erecap.context.compaction.mask import CountTokens
from erecap.context.lines import LinePatterns, annotate
from erecap.generation import Message
from erecap.wrapping.prompts import PromptTalk, join_prompt


@dataclass
class _Talk:
    view: CompactView
    given: list[Message]  # of chats
    prompt: PromptTalk | None = None  # of prompts that are strings


class Conversations:
    """Shows each of several growing conversations within a budget; the least recently used is forgotten first.

    A call continues the conversation whose newest call is the longest beginning of it. What begins otherwise is a
    new one. May be used from several threads.

    Args:
        count: tokens of a text.
        max_tokens, target_tokens: as for `CompactView`.
        patterns: mark observations in the host's text, where its messages do not.
        rank: importance score of an observation, as for `CompactView`.
        most: conversations that are remembered.
    """

    def __init__(
        self,
        count: Callable[[str], int],
        *,
        max_tokens: int | None,
        target_tokens: int | None = None,
        patterns: LinePatterns | None = None,
        rank: Rank | None = None,
        most: int = 64,
    ) -> None:
        def tokens(messages: Sequence[Message]) -> int:
            return sum(count(message["content"]) for message in messages)

        self.count: CountTokens = tokens
        self._budgets = {"max_tokens": max_tokens, "target_tokens": target_tokens}
        self._patterns, self._rank, self._most = patterns, rank, most
        self._talks: list[_Talk] = []  # the most recently used last
        self._lock = threading.Lock()
        self._new_view()  # budgets that cannot be are refused here

    def show_chat(self, messages: Sequence[Message]) -> Shown:
        """The messages to show of a chat."""
        with self._lock:
            begun = [talk for talk in self._talks if talk.prompt is None and _begins(talk.given, messages)]
            talk = max(begun, key=lambda talk: len(talk.given), default=None) or _Talk(self._new_view(), [])
            self._use(talk)
            talk.given = list(messages)
            return talk.view.show(annotate(messages, self._patterns) if self._patterns else messages)

    def show_prompt(self, prompt: str) -> tuple[str, Shown, PromptTalk]:
        """The prompt to show, and the conversation that is to be told the answer (`talk.answer = ...`)."""
        with self._lock:
            begun = [talk for talk in self._talks if talk.prompt is not None and talk.prompt.continues(prompt)]
            talk = max(begun, key=lambda talk: len(talk.prompt.given), default=None)  # type: ignore[union-attr]
            if talk is None:
                talk = _Talk(self._new_view(), [], PromptTalk(prompt, self._patterns))
            self._use(talk)
            assert talk.prompt is not None, "chosen by it"
            shown = talk.view.show(talk.prompt.read(prompt))
            return join_prompt(shown.messages), shown, talk.prompt

    def _use(self, talk: _Talk) -> None:
        self._talks = [*(other for other in self._talks if other is not talk), talk][-self._most :]

    def _new_view(self) -> CompactView:
        return CompactView(self.count, **self._budgets, rank=self._rank)  # type: ignore[arg-type]


def _begins(given: Sequence[Message], messages: Sequence[Message]) -> bool:
    """Return True if `messages` go on from `given`, whose newest message may have grown."""
    if not given or len(given) > len(messages):
        return False
    *before, newest = given
    if any(_said(a) != _said(b) for a, b in zip(before, messages, strict=False)):
        return False
    now = messages[len(before)]
    return newest["role"] == now["role"] and now["content"].startswith(newest["content"])


def _said(message: Message) -> tuple[object, ...]:
    return message["role"], message["content"], repr(message.get("tool_calls"))
