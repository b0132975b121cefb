"""The input of `/v1/responses` as the messages of a chat."""

from __future__ import annotations

import json
from typing import Any

from erecap.serving.messages import refuse_others, refused, role_of, text_of

_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_OF_CALLS, _OF_RESULTS = ("name", "arguments", "input", "call_id"), ("output", "call_id")


def chat_of(given: str | list[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """Messages as `/v1/chat/completions` has them.

    Raises:
        ApiFailure: an item that this server cannot show to a model; with its place.
    """
    messages: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not given:
        raise refused("input", "got no items; wanted at least one")
    for at, item in enumerate(given):
        place, kind = f"input[{at}]", item.get("type", "message")
        if kind == "message":
            refuse_others(item, ("role", "content"), place)
            text = text_of(item.get("content"), f"{place}.content")
            messages.append({"role": role_of(item, place), "content": text})
        elif kind in _CALLS:
            refuse_others(item, _OF_CALLS, place)
            call = {key: item[key] for key in ("name", "arguments", "input") if key in item}
            if messages and messages[-1]["role"] == "assistant":  # calls of one answer, and its text
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind in _RESULTS:
            refuse_others(item, _OF_RESULTS, place)
            result = item.get("output")
            parts = result if isinstance(result, str | list) else json.dumps(result)
            messages.append({"role": "tool", "content": text_of(parts, f"{place}.output")})
        elif kind != "reasoning":  # of earlier answers: it is not shown again
            raise refused(f"{place}.type", f"got {kind!r:.60}; this server keeps nothing and reads text and calls only")
    return messages
