"""Parts of a request besides the text of its messages: tools and their calls, reasoning, images, schemas.

All of it takes part in the window and in the bill, so all of it is counted. Only text of messages is ever shortened.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

# An image, a sound or a file. Images take 85 to about 1,600 tokens, by model and size; this is near the upper end.
MEDIA_TOKENS = 1600
# Role, tags and line ends of a message, in ChatML and in the formats of Llama, Gemma and gpt-oss: 5 or 6 tokens.
MESSAGE_TOKENS = 6
# What chat templates write around the tools: how to call one, and tags. Qwen's text has 106 tokens, our server's 63.
TOOLS_TOKENS = 110
# Fields of a request that are rendered into its prompt.
FIELDS = (
    "tools", "functions", "tools_to_call_from", "response_format", "response_model", "text_format", "system",
    "instructions", "documents", "guided_json", "guided_grammar", "guided_regex", "grammar",
)  # fmt: skip
_TOOLS = ("tools", "functions", "tools_to_call_from")
_CONTENT = ("content", "value", "parts", "message")
# Of messages that are dictionaries all other keys are sent; these are ours, or name the message for the host alone.
_UNSENT = (
    "role", "from", *_CONTENT, "protect", "stale", "observations", "thoughts", "erecap_place", "id", "type",
    "cache_control",
)  # fmt: skip
# Of messages that are objects, whose other attributes are the host's own.
_ATTRIBUTES = (
    "tool_calls", "function_call", "reasoning", "reasoning_content", "reasoning_details", "thinking", "refusal", "name",
)  # fmt: skip
_DESCRIBED = ("name", "description", "inputs", "parameters", "args_schema", "args", "output_type")
# Parts of a message whose data is no text to the model, however long it is.
_MEDIA = ("image", "audio", "video", "file", "document", "media")
_DATA = {"image_url", "input_audio", "inline_data", "inlineData", "file_data", "fileData"}


class Parts(NamedTuple):
    """Text that is counted as such, and the number of images and the like."""

    text: str
    media: int


def beside_content(message: Any, told: str) -> Parts:
    """Return all that `message`, in the host's shape, holds besides the text `told`, which is counted already."""
    content = next((value for name in _CONTENT if (value := _get(message, name)) is not None), None)
    parts = [part for part in content if _get(part, "type") != "text"] if isinstance(content, (list, tuple)) else []
    if isinstance(message, Mapping):
        sent = {key: value for key, value in message.items() if key not in _UNSENT and value is not None}
    else:
        sent = {name: value for name in _ATTRIBUTES if (value := getattr(message, name, None))}
        if getattr(message, "attachment", None) is not None:  # BALROG's image
            parts.append({"type": "image"})
    media: list[Any] = []
    left = [_left(thing, told, media) for thing in (parts, sent) if thing]
    return Parts("\n".join(as_text(thing) for thing in left if thing and thing != [None] * len(thing)), len(media))


def _left(value: Any, told: str, media: list[Any], above: frozenset[int] = frozenset()) -> Any:
    """`value` without texts that are told already, and without images, which are put into `media`.

    What holds itself stays as it is; `above` are the ids of what `value` stands in.
    """
    if id(value) in above:
        return value
    above |= {id(value)}
    if isinstance(value, str):
        return "" if value and value in told else value
    if isinstance(value, (list, tuple)):
        return [_left(one, told, media, above) for one in value]
    kind = str(_get(value, "type") or "") if not isinstance(value, type) else ""
    if any(word in kind for word in _MEDIA) or (isinstance(value, Mapping) and not _DATA.isdisjoint(value)):
        media.append(value)
        return None
    if isinstance(value, Mapping):
        return {key: _left(one, told, media, above) for key, one in value.items()}
    return value


def beside_messages(request: Mapping[str, Any]) -> str:
    """The text of a request's fields that its messages do not hold."""
    fields = _fields(request)
    return as_text(fields) if fields else ""


def tokens_around(request: Mapping[str, Any]) -> int:
    """Tokens that a chat template writes around a request's tools; 0 without tools."""
    return TOOLS_TOKENS if not _fields(request).keys().isdisjoint(_TOOLS) else 0


def _fields(request: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: request[name] for name in FIELDS if _is_given(request.get(name))}
    for body in (request.get("extra_body"), request.get("body")):
        if isinstance(body, Mapping):
            fields |= {name: body[name] for name in FIELDS if _is_given(body.get(name))}
    return fields


def _is_given(value: Any) -> bool:
    # What a host gives may be an array, which is neither true nor false.
    return value is not None and not (isinstance(value, (str, list, tuple, dict, bool)) and not value)


def as_text(value: Any) -> str:
    """`value` as JSON, about as servers render it."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (ValueError, TypeError, RecursionError):  # keys that are no text, or a circle
        return repr(value)


def _plain(value: Any) -> Any:
    """A JSON value for an object of some package."""
    if isinstance(value, type):
        schema = getattr(value, "model_json_schema", None)  # pydantic
        return schema() if callable(schema) else value.__name__
    if isinstance(value, Enum):
        return value.value
    described = {name: found for name in _DESCRIBED if (found := getattr(value, name, None)) is not None}
    if {"name", "description"} <= described.keys():  # a tool of some framework
        return described
    for name in ("model_dump", "to_dict"):
        dump = getattr(value, name, None)
        if callable(dump):
            return dump()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return described or repr(value)


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
