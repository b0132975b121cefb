"""Actions of a controller: named combinations of levers, from a file or from a checkpoint's card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.scheduling.levers import LEVERS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
MOST = 64  # actions of one controller


@dataclass(frozen=True)
class Action:
    """A named combination of levers; a lever that it does not name is as the mode has it."""

    name: str
    levers: Mapping[str, Any] = field(default_factory=dict)  # lever -> value, in the form that `Lever.check` returns

    def words(self) -> str:
        """The levers in one line for people."""
        return ", ".join(f"{lever} {value}" for lever, value in self.levers.items()) or "no lever"


# Where no file is given. Budgets are those of the quality tables; layer plans depend on the model, so none is here.
DEFAULT: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "kv-1024": {"kv_tokens": 1024},
    "kv-512": {"kv_tokens": 512},
    "kv-256": {"kv_tokens": 256},
    "keep-07": {"prefill_keep": 0.7},
}


def make_actions(stated: Any, source: str) -> tuple[Action, ...]:
    """The actions of a mapping `{name: {lever: value}}`.

    Args:
        source: who states them, for messages.

    Raises:
        ConfigError: another shape, an unknown lever, or a value that a lever does not take.
    """
    if not isinstance(stated, Mapping) or not 1 <= len(stated) <= MOST:
        raise ConfigError(f"{source}: allowed: 1 to {MOST} actions, such as {{dense: {{}}, small: {{kv_tokens: 512}}}}")
    found = []
    for name, levers in stated.items():
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ConfigError(f"{source}: action {name!r}: allowed: letters, digits, '.', '_' and '-', at most 40")
        if not isinstance(levers, Mapping):
            raise ConfigError(f"{source}: action {name}: got {levers!r}; allowed: a mapping of levers to values")
        found.append(Action(name, {lever: _checked(source, name, lever, value) for lever, value in levers.items()}))
    for one in found:
        _check_together(source, one)
        twin = next((other for other in found if other is not one and other.levers == one.levers), None)
        if twin is not None:
            raise ConfigError(f"{source}: actions {one.name} and {twin.name} have the same levers; allowed: each once")
    return tuple(found)


def read_actions(path: Path | None) -> tuple[Action, ...]:
    """The actions of a YAML file; without one, `DEFAULT`.

    Raises:
        ConfigError: no such file, no YAML, or as `make_actions`.
    """
    if path is None:
        return make_actions(DEFAULT, "the default actions")
    from erecap.config.source import parse_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    return make_actions(parse_yaml(str(path), text), str(path))


def action_of(actions: Sequence[Action], name: str, source: str) -> Action:
    """The action of that name. Raises ConfigError with the names that there are."""
    found = next((action for action in actions if action.name == name), None)
    if found is None:
        allowed = ", ".join(action.name for action in actions)
        raise ConfigError(f"{source}: no action {name!r}; allowed: {allowed}")
    return found


def _checked(source: str, action: str, lever: Any, value: Any) -> Any:
    if not isinstance(lever, str) or lever not in LEVERS:
        raise ConfigError(f"{source}: action {action}: unknown lever {lever!r}; allowed: {', '.join(LEVERS)}")
    try:
        return LEVERS[lever].check(value)
    except ValueError as error:
        raise ConfigError(f"{source}: action {action}: {lever}: {error}") from error


def _check_together(source: str, action: Action) -> None:
    if {"layers", "slices"} <= action.levers.keys():
        raise ConfigError(
            f"{source}: action {action.name} names layers and slices; allowed: one plan, which may have both"
        )
