"""LangChain 1.x: an edit for `ContextEditingMiddleware`. The model sees less, the agent's state keeps all of it.

Example:
    from langchain.agents import create_agent
    from langchain.agents.middleware import ContextEditingMiddleware
    from erecap.wrapping.langchain import CompactEdit

    agent = create_agent(model, tools, middleware=[ContextEditingMiddleware(edits=[CompactEdit(max_tokens=4000)])])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.wrapping.calls import TextCalls
from erecap.wrapping.log import CallLog


class CompactEdit:
    """A `ContextEdit` of LangChain. One may serve several agents; conversations are told apart by their beginnings.

    Args:
        max_tokens: what the messages may take. System message and tools are not shown to an edit, and come on top;
            `erecap.wrapping.langchain_agents.CompactMiddleware` counts them. Until then messages are only appended to,
            so that the provider's prompt cache holds; then they are compacted to six tenths of it.
        log: a folder that gets a row for each call, without answers, which an edit does not see.
        options: `count_tokens`, `tokenizer`, `patterns`, `on_error`, `rank`, as for `erecap.wrap`.

    Raises:
        ConfigError: an unusable value.
    """

    def __init__(self, max_tokens: int, *, log: str | Path | None = None, **options: Any) -> None:
        self._calls = TextCalls.opened("langchain", log, keep_tokens=max_tokens, **options)

    @property
    def log(self) -> CallLog:
        """The log of calls."""
        return self._calls.log

    def apply(self, messages: list[Any], *, count_tokens: Any = None) -> None:
        """Shorten `messages` in place. LangChain's own counter counts whole chats, and is not used."""
        call = self._calls.prepare(messages)
        messages[:] = list(call.shown)
        self._calls.note(call, "")
