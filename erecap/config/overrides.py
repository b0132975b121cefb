"""`key=value` on the command line: dotted keys, values in YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from erecap.config.server_url import without_password
from erecap.config.source import parse_yaml
from erecap.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


def parse_override(text: str) -> tuple[list[str], Any]:
    """`"prune.keep=0.5"` -> `(["prune", "keep"], 0.5)`. An empty value is null.

    Raises:
        ConfigError: no `=`, a key that is not dotted words, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(
            f"override {without_password(text)!r}: allowed: key=value, such as episodes=5 or prune.keep=0.5"
        )
    return key.split("."), parse_yaml(f"override {key}", value)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with every override set; later ones win. Missing mappings are made.

    Raises:
        ConfigError: an override is malformed, or goes below a value that is not a mapping.
    """
    result = dict(values)
    for text in overrides:
        path, value = parse_override(text)
        _set(result, path, value, text)
    return result


def _set(target: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    for depth, part in enumerate(path[:-1]):
        below = target.get(part)
        if below is not None and not isinstance(below, dict):
            where = f"override {text!r}: {'.'.join(path[: depth + 1])}"
            raise ConfigError(without_password(f"{where} is {below!r}, which has no keys below it"))
        # Copied on the way down, so that the caller's mapping stays as it was.
        target[part] = dict(below or {})
        target = target[part]
    target[path[-1]] = value
