"""Messages as hosts have them, dictionaries or objects, with content in parts: read as ours, written as theirs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import Message

_ROLES = {"human": "user", "gpt": "assistant", "ai": "assistant", "developer": "system", "function": "tool"}
_TOOLS = {"tool-call": "assistant", "tool-response": "tool"}  # smolagents
PLACE = "erecap_place"  # which of the host's messages one of ours is; taken off again


def read_messages(given: Any) -> list[Message]:
    """The host's chat as our messages, each with its index in it.

    Understood are `role` and `content` (AgentGym's `from` and `value`, LangChain's `type`) as keys or attributes, and
    content that is a text, None beside calls of tools, or a list of text parts. Several parts are never cut.

    Raises:
        ConfigError: something else, such as an image.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(
            f"a wrapped planner takes a list of messages or a text that grows, got {type(given).__name__}"
        )
    return [_read(message, number) for number, message in enumerate(given)]


def write_messages(shown: Sequence[Message], given: Sequence[Any]) -> Sequence[Any]:
    """The messages of `given` that are in `shown`, in the host's shape, with the text that they have there.

    `given` itself, where all of it is shown; messages whose text is unchanged are the host's own objects.
    """
    result = []
    for message in shown:
        original = given[message[PLACE]]  # type: ignore[literal-required]
        same = _text(_field(original, "content", "value")) == message["content"]
        result.append(original if same else _write(original, message["content"]))
    unchanged = len(result) == len(given) and all(a is b for a, b in zip(result, given, strict=True))
    return given if unchanged else result


def _read(message: Any, number: int) -> Message:
    role = _field(message, "role", "from")
    if role is None and not isinstance(message, Mapping):
        role = getattr(message, "type", None)  # LangChain
    role = role.value if isinstance(role, Enum) else role
    content = _field(message, "content", "value")
    calls = _field(message, "tool_calls")
    parts = content if isinstance(content, (list, tuple)) else []
    other = sorted({str(_field(part, "type")) for part in parts} - {"text"})
    if other:
        raise ConfigError(
            f"message {number} has parts of type {', '.join(other)}; only text can be shortened, so wrap a planner "
            "that is sent text, or leave this one unwrapped"
        )
    plain = isinstance(content, (str, list, tuple)) or (content is None and calls)
    if not isinstance(role, str) or not plain:
        raise ConfigError(f"message {number} must have a role and a text content, got {message!r:.80}")
    role = _TOOLS.get(role, _ROLES.get(role, role))
    ours: dict[str, Any] = {"role": role, "content": _text(content), PLACE: number}
    if calls:
        ours["tool_calls"] = calls
    if isinstance(message, Mapping):
        ours |= {key: message[key] for key in ("protect", "stale", "observations") if key in message}
    if len(parts) > 1:
        ours["observations"] = []  # it is shown as it is, or goes with its exchange
    return ours  # type: ignore[return-value]


def _field(message: Any, *names: str) -> Any:
    for name in names:
        if isinstance(message, Mapping):
            if name in message:
                return message[name]
        elif hasattr(message, name):
            return getattr(message, name)
    return None


def _text(content: Any) -> str:
    if isinstance(content, (list, tuple)):
        return "\n".join(str(_field(part, "text") or "") for part in content)
    return content or ""


def _write(message: Any, text: str) -> Any:
    """A copy of `message` with `text` as its content, in parts if it had parts."""
    old = _field(message, "content", "value")
    new: Any = text
    if isinstance(old, (list, tuple)):
        new = [{**old[0], "text": text} if isinstance(old[0], Mapping) else _with(old[0], "text", text)]
    if isinstance(message, Mapping):
        return {**message, ("content" if "content" in message else "value"): new}
    return _with(message, "content", new)


def _with(thing: Any, name: str, value: Any) -> Any:
    if hasattr(thing, "model_copy"):  # pydantic
        return thing.model_copy(update={name: value})
    if dataclasses.is_dataclass(thing):
        return dataclasses.replace(thing, **{name: value})  # type: ignore[type-var]
    changed = copy.copy(thing)
    setattr(changed, name, value)
    return changed
