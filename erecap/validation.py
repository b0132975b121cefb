"""Turns pydantic's findings into one line: where, what was got, what is allowed."""

from __future__ import annotations

import types
from collections.abc import Sized
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

# Tags of a union of words and a mapping: they stand in the location of a finding, and say nothing to a reader.
WORD, PARTS = "<word>", "<mapping>"

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping of keys to values",
    Path: "a path",
}
_BOUNDS = (
    ("ge", "at least {}"),
    ("gt", "more than {}"),
    ("le", "at most {}"),
    ("lt", "less than {}"),
    ("min_length", "{} or more long"),
    ("max_length", "{} or less long"),
    ("pattern", "of the form {}"),
)


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """`names`, for a validator of a field.

    Raises:
        ValueError: one of them is there more than once.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return names


def one_line(source: str, error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first finding of `error` as `source: key: got ...; allowed: ...`.

    Args:
        source: the file, or what else the values came from.
        error: raised by `model`.
        model: the pydantic model that the values were checked against.
        prefix: put before the key, such as "options.".
    """
    findings = error.errors(include_url=False)
    first = findings[0]
    where = prefix + ".".join(str(part) for part in first["loc"] if part not in (WORD, PARTS))
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    if not first["loc"] and first["type"] == "value_error":  # about keys beside each other; the message names them
        return f"{source}: {_explain(first, model)}{more}"
    return f"{source}: {where or 'the file'}: {_explain(first, model)}{more}"


def _explain(finding: Any, model: type[BaseModel]) -> str:
    location = [part for part in finding["loc"] if isinstance(part, str) and part not in (WORD, PARTS)]
    if finding["type"] == "extra_forbidden":
        return _unknown_key(location, model)
    field = _field(location, model)
    if finding["type"] == "missing":
        return f"is missing; allowed: {allowed(field)}" if field else "is missing"
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    got = f"got {_short(finding['input'])}"
    if finding["type"] in ("too_long", "too_short") and isinstance(finding["input"], Sized) and finding["input"]:
        got = f"got {len(finding['input'])} of them"
    if field is None:
        return f"{got}; {finding['msg']}"
    return f"{got}; allowed: {allowed(field)}"


def _unknown_key(location: list[str], model: type[BaseModel]) -> str:
    owner = model
    for part in location[:-1]:
        field = owner.model_fields.get(part)
        below = _model_of(field.annotation) if field else None
        if below is not None:
            owner = below
    keys = [field.alias or name for name, field in owner.model_fields.items()]
    close = get_close_matches(location[-1], keys, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown key{hint}; allowed keys: {', '.join(keys) or 'none'}"


def _field(location: list[str], model: type[BaseModel]) -> FieldInfo | None:
    field: FieldInfo | None = None
    owner: type[BaseModel] | None = model
    for part in location:
        if field is not None and get_origin(field.annotation) is dict and owner and part not in owner.model_fields:
            continue  # a key of the user's own
        below = owner.model_fields.get(part) if owner else None
        if below is None:
            # Inside a list or a union: the last field that has a name is what a reader knows.
            break
        field, owner = below, _model_of(below.annotation)
    return field


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The first model in an annotation, also in a list or a union of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_of(part)) is not None), None)


def allowed(field: FieldInfo) -> str:
    """The values that a field takes, in words: its type, its bounds, and its purpose."""
    text = _type(field.annotation)
    bounds = _bounds(field)
    purpose = f" - {field.description}" if field.description else ""
    return text + (f", {bounds}" if bounds else "") + purpose


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in get_args(annotation))
    if origin in (list, tuple):
        return f"a list ({_type(get_args(annotation)[0])} each)"
    if origin is not None and origin is not dict:
        return _type(get_args(annotation)[0])
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {', '.join(annotation.model_fields)}"
    return _NAMES.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(field: FieldInfo) -> str:
    parts = []
    for item in field.metadata:
        for key, words in _BOUNDS:
            bound = getattr(item, key, None)
            if bound is not None:
                parts.append(words.format(bound))
    return " and ".join(parts)


def _short(value: Any) -> str:
    text = repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return text if isinstance(value, (int, float, type(None))) else f"{text} ({_kind(value)})"


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), type(value).__name__)
