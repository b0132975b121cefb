"""The argument of a planner's call that holds its history: found by name, or by what it holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from erecap.wrapping.shapes import is_message

# In the order in which they are looked for. A function may have both a `prompt` and `messages`, one of them None.
NAMES = (
    "messages", "prompt", "prompts", "input", "inputs", "contents", "chat_history", "message_history",
    "conversation", "dialogue", "history", "chat", "message", "text", "instruction",
)  # fmt: skip
_NAMES = frozenset(NAMES)
_BATCHES = ("prompts", "messages", "inputs")  # of these, a list of prompts or of chats is several conversations
_KEPT_BY_SERVER = ("previous_response_id", "conversation")  # of the Responses API: the history is not in the call
_BODIES = ("extra_body", "body")  # of a request; what they hold is sent instead of arguments of the same name
_IN_BODIES = ("messages", "input", "contents")
_KINDS = ("text", "image")  # of the parts of PARTNR's prompts


class Slot(NamedTuple):
    """One argument of a call."""

    key: int | str | tuple[str, str]  # its place, or its name, or a body's name and a field of it
    name: str | None  # its name, where it is known
    value: Any


def parameters_of(method: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of the positional parameters of `method`; None where it does not tell them."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # some builtins
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def is_named(method: Callable[..., Any]) -> bool:
    """Return True if a parameter of `method` has one of the `NAMES`; otherwise the history is found by its content."""
    try:
        return not _NAMES.isdisjoint(inspect.signature(method).parameters)
    except (TypeError, ValueError):
        return False


def is_opaque(method: Callable[..., Any]) -> bool:
    """Return True if `method` takes anything and tells nothing about it, as decorated methods often do."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return True
    anything = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return bool(parameters) and all(parameter.kind in anything for parameter in parameters)


def takes_nothing(method: Callable[..., Any]) -> bool:
    """Return True if `method` has no parameter at all, so that no history can be given to it."""
    try:
        return not inspect.signature(method).parameters
    except (TypeError, ValueError):
        return False


def find_history(
    names: Sequence[str] | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, named: bool, strict: bool
) -> Slot | None:
    """The argument that holds the history; None where there is none.

    Args:
        names: of the positional parameters.
        args: of the call.
        kwargs: of the call.
        named: only an argument with one of the `NAMES` will do. Otherwise, without such an argument, the first chat
            is taken, and without a chat the first parameter.
        strict: the first argument is taken even where nobody knows what its name is.
    """
    sent = in_body(kwargs)
    if sent is not None:
        return sent
    known = names or ()
    slots = [Slot(number, known[number] if number < len(known) else None, value) for number, value in enumerate(args)]
    slots += [Slot(name, name, value) for name, value in kwargs.items()]
    if any(isinstance(kwargs.get(name), str) for name in _KEPT_BY_SERVER) and "input" in kwargs:
        return None
    for name in NAMES:
        for slot in slots:
            if slot.name == name and (is_history(slot.value) or is_batch(slot)):
                return slot
    if named and not strict:
        return None
    for slot in slots:
        if _is_told(slot.value):
            return slot
    if not known and not strict:
        return None
    return next((slot for slot in slots if slot.key == 0 or (known and slot.name == known[0])), None)


def in_body(kwargs: Mapping[str, Any]) -> Slot | None:
    """The chat in the body of a request; None where there is none."""
    for name in _BODIES:
        body = kwargs.get(name)
        if not isinstance(body, Mapping):
            continue
        for field in _IN_BODIES:
            if _is_told(body.get(field)):
                return Slot((name, field), field, body[field])
    return None


def is_chat(value: Any) -> bool:
    """Return True for a list of messages, an empty one included."""
    return _is_list(value) and all(map(is_message, value))


def _is_told(value: Any) -> bool:
    # Asked in this order: an image that stands beside a chat may be an array, which is neither true nor false.
    return is_chat(value) and len(value) > 0


def is_history(value: Any) -> bool:
    """Return True for a prompt string, a list with messages, or PARTNR's list of parts."""
    return isinstance(value, str) or is_chat(value) or is_parts(value) or _has_messages(value)


def _has_messages(value: Any) -> bool:
    return _is_list(value) and any(map(is_message, value))


def _is_list(value: Any) -> bool:
    """A list of any kind, `UserList` and a host's own included."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, range))


def is_parts(value: Any) -> bool:
    """Return True for PARTNR's list form of a prompt: `("text" | "image", content)`."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, tuple) and len(part) == 2 and part[0] in _KINDS for part in value)
    )


def is_batch(slot: Slot) -> bool:
    """Return True for several prompts or chats at once, as vLLM takes them."""
    value = slot.value
    if slot.name not in _BATCHES or not isinstance(value, (list, tuple)) or not value:
        return False
    texts = slot.name != "messages" and all(isinstance(one, str) for one in value)
    return texts or all(isinstance(one, (list, tuple)) and bool(one) and is_chat(one) for one in value)


def replaced(slot: Slot, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments with another value in that slot."""
    if isinstance(slot.key, int):
        return (*args[: slot.key], value, *args[slot.key + 1 :]), kwargs
    if isinstance(slot.key, tuple):
        name, field = slot.key
        return args, {**kwargs, name: {**kwargs[name], field: value}}
    return args, {**kwargs, slot.key: value}
