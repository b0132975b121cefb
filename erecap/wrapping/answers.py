"""Answers of other people's planners: their text, the tools that they call, the server's counts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# In these the text of an answer is found; the first that is there counts. `outputs` is vLLM's, `generations`
# LangChain's, `response` Ollama's, `completion` BALROG's, `output` that of Bedrock and of the Responses API.
_TEXTS = ("output_text", "content", "completion", "response", "generated_text", "text")
_HOLDERS = ("choices", "message", "outputs", "generations", "output")
_NESTED = 4  # holders inside each other, from a list of answers down to the message of a choice


def field_of(thing: Any, name: str) -> Any:
    """The value under a key of a mapping or an attribute of an object; None where there is none."""
    if isinstance(thing, Mapping):
        return thing.get(name)
    if isinstance(thing, (str, bytes, int, float)):
        return None
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 (a property of somebody else's answer; the answer is worth more than its row)
        return None


def text_of(answer: Any) -> str | None:
    """The text of an answer: a string, or what objects and dictionaries of common hosts hold. None: it has no text."""
    return _text_of(answer, _NESTED)


def said_by(answer: Any) -> str:
    """As `text_of`, "" where there is none."""
    return text_of(answer) or ""


def comparable(answer: Any) -> str | None:
    """Return the text of an answer and the tools it calls, or all of plain data, to compare by. None: unknown."""
    text, calls = text_of(answer), _calls_in(answer, _NESTED)
    if calls:
        return json.dumps([text or "", calls], sort_keys=True, default=str)
    if text is not None:
        return text
    if answer is None:
        return None
    try:
        return json.dumps(answer, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None


def piece_of(chunk: Any, so_far: str) -> str:
    """The text that one item of a stream adds to what it has said `so_far`."""
    delta = field_of(chunk, "delta")
    if isinstance(delta, str):  # LlamaIndex; events of the Responses API
        kind = str(field_of(chunk, "type") or "text")
        return delta if "text" in kind or kind == "content.delta" else ""
    if delta is not None:  # events of Anthropic
        return said_by(delta)
    choices = field_of(chunk, "choices")
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        first = choices[0] if choices else None
        index = field_of(first, "index") or 0
        inner = field_of(first, "delta")
        text = text_of(first if inner is None else inner)
        return (text or "") if index == 0 else ""
    text = "" if field_of(chunk, "snapshot") is not None else said_by(chunk)
    return "" if text == so_far else text  # some streams end with the whole answer once more


def usage_of(answer: Any) -> dict[str, object]:
    """The server's token counts, for the log: those that are finite counts, whatever else stands there."""
    usage = field_of(answer, "usage")
    if usage is None:
        return {}
    details = field_of(usage, "prompt_tokens_details") or field_of(usage, "input_tokens_details")
    found = {
        "server_prompt_tokens": _count(field_of(usage, "prompt_tokens"), field_of(usage, "input_tokens")),
        "server_cached_tokens": _count(
            field_of(details, "cached_tokens"), field_of(usage, "cache_read_input_tokens"), 0
        ),
        "server_completion_tokens": _count(field_of(usage, "completion_tokens"), field_of(usage, "output_tokens")),
    }
    return {name: value for name, value in found.items() if value is not None} if any(found.values()) else {}


def counts_drops(answer: Any) -> bool:
    """Return True if an answer's usage counts tokens that the server dropped by edits of the chat, zeros included."""
    details = field_of(field_of(answer, "usage"), "prompt_tokens_details")
    return isinstance(field_of(details, "drop_skipped_tokens"), int)


def _count(*values: Any) -> int | None:
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and value >= 0:
            return int(value)
    return None


def _text_of(answer: Any, depth: int) -> str | None:
    if isinstance(answer, str):
        return answer
    if answer is None or not depth or isinstance(answer, (bytes, int, float)):
        return None
    if isinstance(answer, (list, tuple)):  # of several answers the first; AgentGym's is text and reasoning
        return next((text for one in answer if (text := _text_of(one, depth - 1)) is not None), None)
    for name in _TEXTS:
        value = field_of(answer, name)
        if isinstance(value, str):
            return value
        if name == "content" and isinstance(value, (list, tuple)):
            return "".join(_parts(value))
    for name in _HOLDERS:
        text = _text_of(field_of(answer, name), depth - 1)
        if text is not None:
            return text
    return None


def _parts(content: Sequence[Any]) -> list[str]:
    texts = [part if isinstance(part, str) else field_of(part, "text") for part in content]
    return [text for text in texts if isinstance(text, str)]


def _calls_in(answer: Any, depth: int) -> list[list[Any]]:
    """Name and arguments of each tool that an answer calls; ids are of one call only, so they are left out."""
    if answer is None or not depth or isinstance(answer, (str, bytes, int, float)):
        return []
    if isinstance(answer, (list, tuple)):
        return _calls_in(answer[0], depth - 1) if answer else []
    given: list[Any] = [field_of(answer, "function_call"), field_of(answer, "custom_tool_call")]
    for name in ("tool_calls", "content", "output"):
        value = field_of(answer, name)
        given += value if isinstance(value, (list, tuple)) else []
    found = []
    for call in given:
        inner = field_of(call, "function") or call
        name = field_of(inner, "name")
        if isinstance(name, str):
            arguments = next(
                (value for key in ("arguments", "args", "input") if (value := field_of(inner, key)) is not None), None
            )
            found.append([name, _plain(arguments)])
    if found:
        return found
    return next((calls for name in _HOLDERS if (calls := _calls_in(field_of(answer, name), depth - 1))), [])


def _plain(arguments: Any) -> Any:
    """Arguments as data: the same call may be written with other spaces."""
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return arguments
