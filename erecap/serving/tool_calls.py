"""Calls of tools as text and as the API has them.

They are read as models and hosts write them: with arguments as an object or as a text of JSON, once or twice encoded,
or called `parameters`; the mark left open, or left out where the call is the whole answer.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CLOSED = re.compile(r"\s*</tool_call>")
_ARGUMENTS = ("arguments", "parameters", "args", "input")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_number)  # models write line breaks into texts


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: dict[str, Any]

    def as_api(self) -> dict[str, Any]:
        """The call as the OpenAI API has it, with a new id."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def told_call(call: Call) -> str:
    """A call as the model would write it."""
    said = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"{OPEN}\n{said}\n{CLOSE}"


def response_text(result: str) -> str:
    """A tool's result as the model is shown it."""
    return f"<tool_response>\n{result}\n</tool_response>"


def read_call(given: Any) -> Call:
    """A call as hosts and models have it: flat, or inside `function` or `custom`.

    Raises:
        ValueError: no name, or arguments that are no object; in words.
    """
    inner = next((given[key] for key in ("function", "custom") if given.get(key)), given) if _is(given) else given
    if not _is(inner) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise ValueError(f"got {given!r:.80}; wanted a function with a name and arguments")
    value = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), None)
    if inner is not given and given.get("custom") is inner:
        return Call(inner["name"], {"input": value})  # a custom tool takes any text
    return Call(inner["name"], _arguments(value))


def calls_in(text: str) -> tuple[str | None, list[dict[str, Any]]]:
    """The answer's text without its calls, None if nothing is left of it, and the calls as the API has them.

    What looks like a call and is no JSON with a name stays text.
    """
    calls: list[Call] = []
    rest, place = [], 0
    while (at := text.find(OPEN, place)) >= 0:
        found = _call_at(text, at + len(OPEN))
        end = at + len(OPEN) if found is None else found[1]
        rest.append(text[place : end if found is None else at])
        calls += [] if found is None else [found[0]]
        place = end
    rest.append(text[place:])
    if not calls and text.lstrip().startswith("{"):
        # The marks are special tokens of some models, which are no text, and others leave them out.
        found = _call_at(text, 0, marked=False)
        if found is not None and not text[found[1] :].strip():
            return None, [found[0].as_api()]
    left = "".join(rest)
    return (left if not calls else left.strip() or None), [call.as_api() for call in calls]


def _call_at(text: str, place: int, marked: bool = True) -> tuple[Call, int] | None:
    """The call whose JSON begins at `place`, and where it ends with its closing mark."""
    begin = len(text) - len(text[place:].lstrip())
    try:
        content, end = _DECODER.raw_decode(text, begin)
        # Without a mark an object with nothing but a name may be an answer.
        if not _is(content) or not (marked or any(key in content for key in _ARGUMENTS)):
            return None
        call = read_call(content)
    except (ValueError, RecursionError):  # no JSON, or no call
        return None
    closed = _CLOSED.match(text, end)
    return call, closed.end() if closed else end


def _arguments(value: Any) -> dict[str, Any]:
    """An object of arguments, out of a text of JSON where it is one; twice encoded ones are decoded twice."""
    read = value
    for _ in range(2):
        if isinstance(read, str):
            try:
                read = json.loads(read, strict=False, parse_constant=_no_number) if read.strip() else {}
            except RecursionError as error:
                raise ValueError("arguments: nested too deeply") from error
            except ValueError as error:
                raise ValueError(f"arguments: got {value!r:.80}; wanted a JSON object") from error
    if read is None:
        return {}
    if not _is(read):
        raise ValueError(f"arguments: got {value!r:.80}; wanted a JSON object")
    return read


def _is(value: Any) -> bool:
    return isinstance(value, dict)
