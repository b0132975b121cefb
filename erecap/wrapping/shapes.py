"""Messages as hosts have them, dictionaries or objects, with content in parts: read as ours, written as theirs."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.wrapping.option_types import is_whole

_ROLES = {
    "USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "tool",  # Cohere's first API
    "human": "user", "gpt": "assistant", "ai": "assistant", "model": "assistant",
    "developer": "system", "function": "tool",
    "AIMessageChunk": "assistant",  # LangChain
    "tool-call": "assistant", "tool-response": "tool",  # smolagents
    "SystemMessage": "system", "UserMessage": "user", "AssistantMessage": "assistant",  # AutoGen
    "FunctionExecutionResultMessage": "tool",
}  # fmt: skip
# Items of the Responses API that have no role: what the model said or called, and what came of it.
_OUTPUTS, _SAID = "_output", ("_call", "reasoning", "item_reference", "compaction", "mcp_list_tools")
PLACE = "erecap_place"  # which of the host's messages one of ours is; taken off again
UNKNOWN = "erecap_unknown"  # set where a message has no role, so that nobody can say what may go beside it
_SPANS = ("protect", "stale", "observations", "thoughts")
WHOLE = "erecap_whole"  # set where a message has more than one text in it, so that it is passed on as it is

_Write = Callable[[str], Any]


def read_messages(given: Any, *, strict: bool = True) -> list[Message]:
    """The host's chat as our messages, each with its index in it.

    Understood are `role` and `content` (AgentGym's `from` and `value`, LangChain's `type`, Gemini's `parts`) as keys
    or attributes, items of the Responses API, and content that is a text, parts, or None. Of parts a single text, or a
    single result of a tool, can be shortened. Messages with anything else are marked with `WHOLE` and protected;
    those without a role also with `UNKNOWN`.

    Args:
        given: the host's messages.
        strict: refuse messages that hold something else than text.

    Raises:
        ConfigError: no list, or no message in it at all; where `strict`, one that is none, or holds something else
            than text, such as an image.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(
            f"a wrapped planner takes a list of messages or a text that grows, got {type(given).__name__}"
        )
    ours = [_read(message, number, strict) for number, message in enumerate(given)]
    if ours and all(UNKNOWN in message for message in ours):
        raise ConfigError(f"message 0 must have a role and a text content, got {given[0]!r:.80}")
    return ours


def check_spans(messages: Sequence[Message]) -> None:
    """Check the spans that the host's messages name, before something is left out by them.

    Raises:
        ConfigError: something else than pairs of numbers.
    """
    for number, message in enumerate(messages):
        for key in _SPANS:
            spans = message.get(key, ())
            if not isinstance(spans, (list, tuple)) or not all(map(_is_span, spans)):
                raise ConfigError(f"message {number}: {key} must be a list of (start, end), got {spans!r:.60}")


def _is_span(span: Any) -> bool:
    return isinstance(span, (list, tuple)) and len(span) == 2 and all(map(is_whole, span))


def write_messages(shown: Sequence[Message], given: Sequence[Any]) -> Sequence[Any]:
    """The messages of `given` that are in `shown`, in the host's shape, with the text that they have there.

    `given` itself, where all of it is shown; messages whose text is unchanged are the host's own objects.
    """
    result = []
    for message in shown:
        original = given[message[PLACE]]  # type: ignore[literal-required]
        text, write = _content(original)
        result.append(original if text == message["content"] or write is None else write(message["content"]))
    unchanged = len(result) == len(given) and all(a is b for a, b in zip(result, given, strict=True))
    return given if unchanged else _as_kind(result, given)


def _as_kind(messages: list[Any], given: Sequence[Any]) -> Sequence[Any]:
    """`messages` in a sequence of the kind of `given`, where its constructor takes a list; else as a list."""
    if type(given) is list:
        return messages
    try:
        made = type(given)(messages)  # type: ignore[call-arg]
        return made if len(made) == len(messages) and all(map(operator.is_, made, messages)) else messages
    except (TypeError, ValueError):  # a constructor with other arguments, as a host's own class may have
        return messages


def is_message(thing: Any) -> bool:
    """Return True for what `read_messages` takes for a message of a chat."""
    if isinstance(thing, tuple):  # LangChain's (role, text)
        return len(thing) == 2 and all(isinstance(part, str) for part in thing)
    return _role(thing) is not None


def _read(message: Any, number: int, strict: bool) -> Message:
    role = _role(message)
    if strict:
        _refuse_other(message, number, role)
    if role is None:
        text = message if isinstance(message, str) else _content(message)[0]
        odd: dict[str, Any] = {"role": "user", "content": text, PLACE: number, WHOLE: True, UNKNOWN: True}
        return odd  # type: ignore[return-value]
    text, write = _content(message)
    calls = (_field(message, "tool_calls") or []) if strict else _calls(message)
    if role == "user" and any(_is_result(part) for part in _parts_of(message)):
        role = "tool"  # Anthropic and Bedrock: results come as messages of the user
    ours: dict[str, Any] = {"role": role, "content": text, PLACE: number}
    if calls:
        ours["tool_calls"] = calls
    if isinstance(message, Mapping):
        ours |= {key: message[key] for key in _SPANS if key in message}
    if write is None and (text or not calls):
        # It is shown as it is, or goes with its whole exchange.
        ours["thoughts" if role == "assistant" else "observations"] = []
        if not strict:
            ours[WHOLE] = True
    return ours  # type: ignore[return-value]


def _refuse_other(message: Any, number: int, role: str | None) -> None:
    content = _field(message, "content", "value")
    parts = content if isinstance(content, (list, tuple)) else []
    other = sorted({str(_field(part, "type")) for part in parts} - {"text"})
    if other:
        raise ConfigError(
            f"message {number} has parts of type {', '.join(other)}; only text can be shortened, so wrap a planner "
            "that is sent text, or leave this one unwrapped"
        )
    plain = isinstance(content, (str, list, tuple)) or (content is None and _field(message, "tool_calls"))
    if role is None or not plain:
        raise ConfigError(f"message {number} must have a role and a text content, got {message!r:.80}")


def _role(message: Any) -> str | None:
    """The role of a message, by its own field or by its kind; None of what is none."""
    if isinstance(message, tuple):
        return _ROLES.get(message[0], message[0]) if is_message(message) else None
    if isinstance(message, (str, bytes, int, float, type(None))):
        return None
    for name in ("role", "from", "type"):
        role = _field(message, name)
        role = role.value if isinstance(role, Enum) else role
        if not isinstance(role, str):
            continue
        if name != "type" or role in _ROLES:
            return _ROLES.get(role, role)
        if role.endswith(_OUTPUTS):
            return "tool"
        if role.endswith(_SAID):
            return "assistant"
        if not isinstance(message, Mapping) and _field(message, "content") is not None:
            return role  # LangChain's "system", "tool", "chat"
    return None


def _calls(message: Any) -> list[Any]:
    """The tools that a message calls, in the host's shape."""
    if isinstance(message, tuple):
        return []
    calls = _field(message, "tool_calls")
    if isinstance(calls, (list, tuple)) and calls:
        return list(calls)
    legacy = _field(message, "function_call")
    if isinstance(legacy, Mapping) or getattr(legacy, "name", None):
        return [legacy]
    if _without_role(message) and str(_field(message, "type")).endswith("_call"):
        return [message]
    return [part for part in _parts_of(message) if _is_call(part)]


def _content(message: Any) -> tuple[str, _Write | None]:
    """The text of a message, and the function that gives it another; None where it must stay as it is."""
    if isinstance(message, tuple):
        return message[1], lambda text: (message[0], text)
    for name in ("content", "value", "output", "parts", "message"):
        found = _field(message, name)
        if found is None or (name == "output" and not _without_role(message)):
            continue
        if name == "message" and not isinstance(found, str):
            continue
        if isinstance(found, str):
            return found, _inside(message, name, lambda text: text)
        if isinstance(found, (list, tuple)):
            text, write = _of_parts(found)
            return text, _inside(message, name, write)
        return f"[{type(found).__name__}]", None
    # A refusal, a reply in sound, or nothing but calls of tools.
    return "", None


def _inside(thing: Any, name: str, write: _Write | None) -> _Write | None:
    """How to write another text into the field `name` of `thing`, given how to write that field."""
    return None if write is None else lambda text: _with(thing, name, write(text))


def _of_parts(parts: Sequence[Any]) -> tuple[str, _Write | None]:
    """Text of a content in parts, and how to write another; several parts, and other kinds, stay as they are."""
    texts = [_part_text(part) for part in parts]
    joined = "\n".join(text for text, _ in texts)
    if len(parts) != 1 or texts[0][1] is None:
        return joined, None
    write, same = texts[0][1], tuple if isinstance(parts, tuple) else list
    return joined, lambda text: same([write(text)])


def _part_text(part: Any) -> tuple[str, _Write | None]:
    if isinstance(part, str):
        return part, lambda text: text
    text, kind = _field(part, "text"), _field(part, "type")
    if isinstance(text, str) and kind in (None, "text", "input_text", "output_text"):
        return text, lambda text: _with(part, "text", text)
    if kind == "text" and text is None:
        return "", None
    if _is_result(part):
        content = _field(part, "content")
        if isinstance(content, str):
            return content, lambda text: _with(part, "content", text)
        if isinstance(content, (list, tuple)):
            inner, write = _of_parts(content)
            return inner, _inside(part, "content", write)
    if _is_call(part):
        return "", None
    # Something to stand for it, so that it can be protected.
    return f"[{kind or type(part).__name__}]", None


def _is_result(part: Any) -> bool:
    """A tool's result among the parts: of Anthropic, of AutoGen."""
    named = _field(part, "tool_use_id") is not None or _field(part, "call_id") is not None
    return not isinstance(part, str) and (_field(part, "type") == "tool_result" or named)


def _is_call(part: Any) -> bool:
    """A call of a tool among the parts: of Anthropic, of AutoGen."""
    kind = str(_field(part, "type"))
    autogen = _field(part, "arguments") is not None and _field(part, "name") is not None
    return not isinstance(part, str) and (kind.endswith(("tool_use", "tool_call")) or autogen)


def _parts_of(message: Any) -> Sequence[Any]:
    found = _field(message, "content", "parts")
    return found if isinstance(found, (list, tuple)) and not isinstance(message, tuple) else []


def _without_role(message: Any) -> bool:
    return _field(message, "role", "from") is None


def _field(thing: Any, *names: str) -> Any:
    for name in names:
        if isinstance(thing, Mapping):
            if name in thing:
                return thing[name]
        elif hasattr(thing, name):
            return getattr(thing, name)
    return None


def _with(thing: Any, name: str, value: Any) -> Any:
    """A copy of `thing` with another value in one field."""
    if isinstance(thing, Mapping):
        return {**thing, name: value}
    if name in getattr(type(thing), "model_fields", ()):  # pydantic; LlamaIndex has `content` beside its fields
        return thing.model_copy(update={name: value})
    if dataclasses.is_dataclass(thing):
        return dataclasses.replace(thing, **{name: value})  # type: ignore[type-var]
    changed = copy.copy(thing)
    setattr(changed, name, value)
    return changed
