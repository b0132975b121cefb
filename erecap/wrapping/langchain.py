"""LangChain 1.x: an edit for `ContextEditingMiddleware`. The model sees less, the agent's state keeps all of it.

Example:
    from langchain.agents import create_agent
    from langchain.agents.middleware import ContextEditingMiddleware
    from erecap.wrapping.langchain import CompactEdit

    agent = create_agent(model, tools, middleware=[ContextEditingMiddleware(edits=[CompactEdit(max_tokens=4000)])])
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.wrapping.calls import OnError, TextCalls, TextOptions
from erecap.wrapping.log import CallLog


class CompactEdit:
    """A `ContextEdit` of LangChain. One may serve several agents; conversations are told apart by their beginnings.

    Args:
        max_tokens: what the messages may take, the system message aside. Until then they are only appended to, so that
            the provider's prompt cache holds; then they are compacted to six tenths of it.
        count_tokens: tokens of a text; without it a token is taken to be four characters.
        patterns, on_error: as for `erecap.wrap`.
        log: a folder that gets a row for each call, without answers, which an edit does not see.

    Raises:
        ConfigError: an unusable value.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        count_tokens: Callable[[str], int] | None = None,
        patterns: str | None = None,
        on_error: OnError = "raise",
        log: str | Path | None = None,
    ) -> None:
        options = TextOptions(keep_tokens=max_tokens, count_tokens=count_tokens, patterns=patterns, on_error=on_error)
        self._calls = TextCalls(options, CallLog(None if log is None else Path(log), "langchain", "compact"))

    @property
    def log(self) -> CallLog:
        """The log of calls."""
        return self._calls.log

    def apply(self, messages: list[Any], *, count_tokens: Any = None) -> None:
        """Shorten `messages` in place. LangChain's own counter counts whole chats, and is not used."""
        call = self._calls.prepare(messages)
        messages[:] = list(call.shown)
        self._calls.note(call, "")
