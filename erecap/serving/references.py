"""References within a JSON schema that becomes a part of a larger one."""

from __future__ import annotations

from typing import Any

_VALUES = ("const", "enum", "default", "examples")  # hold values, not schemas
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # hold schemas by name


def moved(schema: dict[str, Any], root: str) -> dict[str, Any]:
    """The schema with its references to its own root, `#` and `#/...`, pointing at `root` instead.

    Args:
        schema: a JSON schema. Its own `$id` goes, for a schema with one is a document of its own.
        root: JSON pointer to where it will stand, such as `#/properties/arguments`.
    """
    own = schema.get("$id")
    roots = ["#"] if not isinstance(own, str) else ["#", own.rstrip("#") + "#"]
    found: dict[str, Any] = _moved({key: value for key, value in schema.items() if key != "$id"}, roots, root)
    return found


def _moved(schema: Any, roots: list[str], root: str) -> Any:
    if isinstance(schema, list):
        return [_moved(one, roots, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            found[key] = _pointer(value, roots, root)
        elif key in _NAMED and isinstance(value, dict):
            found[key] = {name: _moved(one, roots, root) for name, one in value.items()}
        else:
            found[key] = value if key in _VALUES else _moved(value, roots, root)
    return found


def _pointer(given: str, roots: list[str], root: str) -> str:
    for own in roots:
        rest = given.removeprefix(own)
        if rest != given and (not rest or rest.startswith("/")):
            return root + rest
    return given
