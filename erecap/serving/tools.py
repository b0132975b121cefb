"""Tools for local models: described in the system message, and found again in the answer.

The format is that of Hermes models (`<tool_call>` with JSON inside), which many small models were trained on, Qwen and
SmolLM2 among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erecap.generation import Message
from erecap.serving.messages import read_chat, refused
from erecap.serving.references import moved

_ABOUT = (
    "You can call these functions. To call one, write\n"
    '<tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>\n'
    "and nothing else. Its result comes back in <tool_response>. Functions, one JSON schema a line:"
)


@dataclass(frozen=True)
class Tools:
    """The tools of a request.

    Args:
        functions: their descriptions; empty: no calls are looked for.
        forced: names of those of which one has to be called; empty: the model chooses.
        parallel: several calls in one answer are passed on; else the first.
        beside_schema: the answer follows a grammar, by which it is either a call or a text in another schema.
        strict: names of those whose arguments follow their schema even where the model chooses; calls then have marks.
    """

    functions: tuple[dict[str, Any], ...] = ()
    forced: tuple[str, ...] = ()
    parallel: bool = True
    beside_schema: bool = False
    strict: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the functions."""
        return tuple(function["name"] for function in self.functions)

    def schema(self) -> dict[str, Any]:
        """JSON schema of a call of one of the forced functions."""
        forced = [function for function in self.functions if function["name"] in self.forced]
        if len(forced) == 1:
            return _schema(forced[0], "#")
        return {"anyOf": [_schema(function, f"#/anyOf/{at}") for at, function in enumerate(forced)]}

    def any_call(self) -> Tools:
        """The same, with a call of any of them forced; arguments of those that are not strict are any object."""
        loose = ({key: value for key, value in one.items() if key != "parameters"} for one in self.functions)
        functions = (
            one if one["name"] in self.strict else bare for one, bare in zip(self.functions, loose, strict=True)
        )
        return replace(self, functions=tuple(functions), forced=self.names)


def read_tools(given: Sequence[Any] | None, choice: Any, parallel: bool | None) -> Tools:
    """The tools of a request, and the choice among them.

    Raises:
        ApiFailure: a tool that is no function, or a choice that is none of them; with the place.
    """
    functions = tuple(_function(tool, f"tools[{at}]") for at, tool in enumerate(given or ()))
    strict = tuple(
        function["name"]
        for at, (tool, function) in enumerate(zip(given or (), functions, strict=True))
        if _strict(tool, f"tools[{at}].strict")
    )
    names = Tools(functions).names
    named = _named(choice)
    if named is not None and named not in names:
        raise refused("tool_choice", f"got {named!r:.60}; tools has no function of that name")
    if choice == "required" and not names:
        raise refused("tool_choice", "got 'required' without tools")
    if choice == "none":
        return Tools()
    forced = (named,) if named is not None else names if choice == "required" else ()
    return Tools(functions, forced, parallel is not False, strict=() if forced else strict)


def as_text(messages: Sequence[Any], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The chat of a request as text, with the functions `tools` described at the end of its system message.

    Raises:
        ApiFailure: a message that cannot be shown to a model; with its place.
    """
    plain = read_chat(messages)
    if not tools:
        return plain
    about = "\n".join([_ABOUT, *(json.dumps(tool, ensure_ascii=False) for tool in tools)])
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{about}"}, *plain[1:]]
    return [{"role": "system", "content": about}, *plain]


def _schema(function: dict[str, Any], root: str) -> dict[str, Any]:
    """JSON schema of a call of one function.

    Args:
        root: JSON pointer to where this schema will stand in a larger one.
    """
    # Parameters that point at parts of themselves, as those of nested models do, go on doing so one level lower.
    parameters = moved(function.get("parameters") or {}, f"{root}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": {**parameters, "type": "object"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _function(tool: Any, place: str) -> dict[str, Any]:
    """The description of one tool; also flat, as `/v1/responses` has it."""
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        raise refused(place, f"got {tool!r:.80}; this server has tools of the type function only")
    inner = tool.get("function", tool)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise refused(place, f"got {tool!r:.80}; wanted a function with a name")
    parameters = inner.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise refused(f"{place}.parameters", f"got {parameters!r:.80}; wanted a JSON schema")
    kind = (parameters or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise refused(
            f"{place}.parameters.type", f"got {kind!r:.80}; arguments are an object, so only 'object' is allowed"
        )
    return {key: value for key, value in inner.items() if key not in ("type", "strict")}


def _strict(tool: Any, place: str) -> bool:
    value = tool.get("function", tool).get("strict")
    if value is not None and not isinstance(value, bool):
        raise refused(place, f"got {value!r:.80}; allowed: true, false or null")
    return bool(value)


def _named(choice: Any) -> str | None:
    """The function that a choice names."""
    if choice is None or choice in ("auto", "none", "required"):
        return None
    inner = choice.get("function", choice) if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise refused("tool_choice", f"got {choice!r:.80}; allowed: auto, none, required, or a function by its name")
    return name
