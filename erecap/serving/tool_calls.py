"""Calls of tools as text and as the API has them.

They are read as models and hosts write them: with arguments as an object or as a text of JSON, once or twice encoded,
or called `parameters`.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HALF = re.compile("[\ud800-\udfff]")
ARGUMENTS = ("arguments", "parameters", "args", "input")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    """A number of JSON. What is larger than any float would become infinite, and that no JSON can hold."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits:.40} is too large")
    return number


# Models write line breaks into texts.
decoder = json.JSONDecoder(strict=False, parse_constant=_no_number, parse_float=_finite)


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: dict[str, Any]

    def as_api(self) -> dict[str, Any]:
        """The call as the OpenAI API has it, with a new id."""
        function = {"name": self.name, "arguments": _json(self.arguments)}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def told_call(call: Call) -> str:
    """A call as the model would write it."""
    said = _json({"name": call.name, "arguments": call.arguments})
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
    value = next((inner[key] for key in ARGUMENTS if inner.get(key) is not None), None)
    if inner is not given and given.get("custom") is inner:
        return Call(inner["name"], {"input": value})  # a custom tool takes any text
    return Call(inner["name"], _arguments(value))


def _arguments(value: Any) -> dict[str, Any]:
    """An object of arguments, out of a text of JSON where it is one; twice encoded ones are decoded twice."""
    read = value
    for _ in range(2):
        if isinstance(read, str):
            try:
                read = decoder.decode(read) if read.strip() else {}
            except RecursionError as error:
                raise ValueError("arguments: nested too deeply") from error
            except ValueError as error:
                raise ValueError(f"arguments: got {value!r:.80}; wanted a JSON object") from error
    if read is None:
        return {}
    if not _is(read):
        raise ValueError(f"arguments: got {value!r:.80}; wanted a JSON object")
    return read


def _json(value: Any) -> str:
    """JSON of a value; half of a surrogate pair, which no tokenizer and no body holds, is escaped."""
    said = json.dumps(value, ensure_ascii=False)
    return said if _HALF.search(said) is None else json.dumps(value)


def _is(value: Any) -> bool:
    return isinstance(value, dict)
