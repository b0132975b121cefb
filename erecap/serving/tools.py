"""Tools for local models: described in the system message, and found again in the answer.

The format is that of Hermes models (`<tool_call>` with JSON inside), which many small models were trained on, Qwen and
SmolLM2 among them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import Message

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.S)
_ABOUT = (
    "You can call these functions. To call one, write\n"
    '<tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>\n'
    "and nothing else. Its result comes back in <tool_response>. Functions, one JSON schema a line:"
)


def as_text(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The chat with tools, their calls and their results as text, for templates that know none of them.

    Raises:
        ConfigError: a call without the name of its function, or arguments that are no text.
    """
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    about = "\n".join([_ABOUT, *lines])
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{about}"}, *plain[1:]]
    return [{"role": "system", "content": about}, *plain]


def calls_in(text: str) -> tuple[str | None, list[dict[str, Any]]]:
    """The answer's text without its calls, None if nothing is left of it, and the calls as the API has them.

    What looks like a call and is no JSON with a name stays text.
    """
    calls: list[dict[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        try:
            content = json.loads(match[1])
        except ValueError:
            return match[0]
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            return match[0]
        arguments = json.dumps(content.get("arguments", {}), ensure_ascii=False)
        function = {"name": content["name"], "arguments": arguments}
        calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        return ""

    rest = _CALL.sub(take, text)
    return (rest if not calls else rest.strip() or None), calls


def _plain(message: Message) -> Message:
    """One message as text."""
    content = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = []
    for function in _functions(message):
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except ValueError:
            arguments = function["arguments"]
        said = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
        calls.append(f"<tool_call>\n{said}\n</tool_call>")
    text = "\n".join([*([content] if content else []), *calls])
    return {"role": message["role"], "content": text}


def _functions(message: Message) -> list[dict[str, Any]]:
    """The calls in a message, each with a name and arguments, as the API has them."""
    found: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or ():  # type: ignore[attr-defined]
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _is_call(function):
            raise ConfigError(
                f"tool_calls: got {function!r:.80}; wanted a function with a name and arguments as a JSON text"
            )
        found.append(function)
    return found


def _is_call(function: dict[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and isinstance(function.get("arguments") or "", str)
