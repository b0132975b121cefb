"""Edits for a server, put into a call of a client's method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from erecap.errors import ConfigError
from erecap.wrapping.histories import Slot


def with_edits(
    method: Callable[..., Any], slot: Slot | None, kwargs: Mapping[str, Any], edits: Mapping[str, Any]
) -> dict[str, Any]:
    """The keywords of a call with edits in its `extra_body`.

    Args:
        method: the client's own.
        slot: the argument that is the chat; None: several chats in one call.

    Raises:
        ConfigError: the method has no such keyword, or its chat is not one of chat completions.
    """
    try:
        takes = "extra_body" in inspect.signature(method).parameters
    except (TypeError, ValueError):  # some builtins
        takes = False
    if not takes or slot is None or slot.name != "messages":
        name = getattr(method, "__qualname__", type(method).__name__)
        raise ConfigError(
            f"emit_edits: {name} has no messages beside an extra_body; wrap a client of openai, and call its "
            "chat.completions"
        )
    return {**kwargs, "extra_body": {**(kwargs.get("extra_body") or {}), **edits}}
