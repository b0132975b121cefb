"""The messages of a request, read as ours. What this server cannot show to a model is refused with its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from erecap.generation import Message
from erecap.serving.failures import ApiFailure
from erecap.serving.tool_calls import Call, read_call, response_text, told_call

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # parts, and their keys
_READ = {"role", "content", "tool_calls", "tool_call_id", "function_call", "refusal"}
# Keys of messages that change nothing in what the model is shown. Reasoning of earlier answers is not shown again.
_HARMLESS = {
    "name",
    "id",
    "type",
    "status",
    "phase",
    "annotations",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "cache_control",
    "provider_specific_fields",
    "additional_kwargs",
    "response_metadata",
    "metadata",
    "protect",
    "stale",
    "observations",
    "thoughts",
}


def refused(place: str, words: str) -> ApiFailure:
    """A field that cannot be served."""
    return ApiFailure(400, f"{place}: {words}", param=place)


def read_chat(given: Sequence[Any]) -> list[Message]:
    """The chat as text messages of the roles system, user and assistant.

    Raises:
        ApiFailure: a message that this server cannot show; with the place in the request.
    """
    return [_read(message, f"messages[{number}]") for number, message in enumerate(given)]


def _read(message: Any, place: str) -> Message:
    if not isinstance(message, dict):
        raise refused(place, f"got {message!r:.80}; wanted an object with role and content")
    role = role_of(message, place)
    refuse_others(message, _READ, place)
    calls = _calls(message, place)
    if calls and role != "assistant":
        raise refused(f"{place}.tool_calls", f"only messages of the assistant call tools, this is one of {role}")
    content = message.get("content")
    if content is None and role == "assistant":
        content = message.get("refusal") or ""
    text = text_of(content, f"{place}.content")
    if _ROLES[role] == "tool":
        return {"role": "user", "content": response_text(text)}
    told = "\n".join([*([text] if text else []), *(told_call(call) for call in calls)])
    return {"role": _ROLES[role], "content": told}  # type: ignore[typeddict-item]


def role_of(message: Mapping[str, Any], place: str) -> str:
    """The role of a message.

    Raises:
        ApiFailure: none that this server knows.
    """
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise refused(f"{place}.role", f"got {role!r:.40}; allowed: {', '.join(_ROLES)}")
    return role


def refuse_others(given: Mapping[str, Any], read: Collection[str], place: str) -> None:
    """Refuse by name what a message or item has besides the keys `read`, and besides what changes nothing.

    Raises:
        ApiFailure: a key that says something which this server would ignore.
    """
    for key, value in given.items():
        if key not in read and key not in _HARMLESS and value is not None:
            raise refused(f"{place}.{key!s:.60}", "this server does not do that, leave it out")


def text_of(content: Any, place: str) -> str:
    """The text of a content: a text, or parts that are texts.

    Raises:
        ApiFailure: something else, such as an image.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(place, f"got {content!r:.80}; wanted a text, or a list of text parts")
    found = []
    for at, part in enumerate(content):
        if isinstance(part, str):
            found.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _TEXTS:
            raise refused(f"{place}[{at}]", f"a part of type {kind!r:.40}; this server reads text only")
        text = part.get(_TEXTS[kind])
        if not isinstance(text, str):
            raise refused(f"{place}[{at}].{_TEXTS[kind]}", f"got {text!r:.80}; wanted a text")
        found.append(text)
    return "\n".join(found)


def _calls(message: dict[str, Any], place: str) -> list[Call]:
    given = message.get("tool_calls")
    if given is not None and not isinstance(given, list):
        raise refused(f"{place}.tool_calls", f"got {given!r:.80}; wanted a list of calls")
    calls = [_call(call, f"{place}.tool_calls[{at}]") for at, call in enumerate(given or ())]
    old = message.get("function_call")
    return calls + ([_call(old, f"{place}.function_call")] if old is not None else [])


def _call(given: Any, place: str) -> Call:
    try:
        return read_call(given)
    except ValueError as error:
        raise refused(place, str(error)) from error
