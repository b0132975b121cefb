"""LiteLLM's proxy: a hook that shortens the chats which go through it.

In `config.yaml` of the proxy: `litellm_settings: {callbacks: my_hooks.compact}`, with `compact = CompactHook(4000)` in
`my_hooks.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from erecap.wrapping.calls import TextCalls

_CHATS = ("completion", "acompletion", "anthropic_messages")


class CompactHook(CustomLogger):
    """A `CustomLogger` whose `async_pre_call_hook` shortens `messages`.

    Args:
        max_tokens, log, options: as for `erecap.wrapping.langchain.CompactEdit`.

    Raises:
        ConfigError: an unusable value.
    """

    def __init__(self, max_tokens: int, *, log: str | Path | None = None, **options: Any) -> None:
        super().__init__()
        self._compact = TextCalls.opened("litellm", log, keep_tokens=max_tokens, **options)

    async def async_pre_call_hook(  # type: ignore[override]
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """`data` with fewer messages; calls that are no chats as they are."""
        if call_type not in _CHATS or not isinstance(data.get("messages"), list):
            return data
        call = self._compact.prepare(data["messages"], data)
        self._compact.note(call, "")
        return {**data, "messages": list(call.shown)}
