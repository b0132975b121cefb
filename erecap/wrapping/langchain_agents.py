"""LangChain 1.x: a middleware for `create_agent` that counts the whole request, tools and system message included.

`ContextEditingMiddleware` hands an edit the messages alone. This one sees what else is sent.

Example:
    from langchain.agents import create_agent
    from erecap.wrapping.langchain_agents import CompactMiddleware

    agent = create_agent(model, tools, system_prompt=RULES, middleware=[CompactMiddleware(max_tokens=4000)])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.utils.function_calling import convert_to_openai_tool

from erecap.wrapping.calls import Call, TextCalls
from erecap.wrapping.log import CallLog


class CompactMiddleware(AgentMiddleware):
    """Shows the model fewer messages; the agent's state keeps all of them.

    A request counts as it does for the same chat model under `erecap.wrap(llm, keep_tokens=...)`.

    Args:
        max_tokens: what a request may take: system message, tools, response format and messages.
        log: a folder that gets a row for each call.
        options: `count_tokens`, `tokenizer`, `patterns`, `on_error`, `rank`, as for `erecap.wrap`.

    Raises:
        ConfigError: an unusable value.
    """

    def __init__(self, max_tokens: int, *, log: str | Path | None = None, **options: Any) -> None:
        super().__init__()
        self._calls = TextCalls.opened("langchain", log, keep_tokens=max_tokens, **options)

    @property
    def log(self) -> CallLog:
        """The log of calls."""
        return self._calls.log

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
        """The handler's answer to a shorter request."""
        call, shorter = self._prepared(request)
        answer = handler(shorter)
        self._noted(call, answer)
        return answer

    async def awrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[Any]]) -> Any:
        """The same for agents that are awaited."""
        call, shorter = self._prepared(request)
        answer = await handler(shorter)
        self._noted(call, answer)
        return answer

    def _prepared(self, request: ModelRequest) -> tuple[Call, ModelRequest]:
        system = request.system_message
        beside = {
            # Dictionaries are a provider's own tools; others are sent in this shape by the chat model.
            "tools": [tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in request.tools],
            "response_format": request.response_format,
        }
        call = self._calls.prepare(([] if system is None else [system]) + request.messages, beside)
        shown = list(call.shown)  # a system message at the beginning is never shortened
        return call, request.override(messages=shown if system is None else shown[1:])

    def _noted(self, call: Call, answer: Any) -> None:
        messages = getattr(answer, "result", None) or [answer]
        self._calls.note(call, messages[-1])
