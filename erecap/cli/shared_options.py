"""Options that several commands share, written once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, get_type_hints


def with_options(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the fields of a dataclass options of a command, in front of its own; it gets them as its first argument.

    Args:
        options: its fields are annotated as parameters of typer commands are.
    """
    kinds = get_type_hints(options, include_extras=True)
    shared = [
        _parameter(field.name, inspect.Parameter.empty if field.default is MISSING else field.default, kinds)
        for field in fields(options)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            _parameter(one.name, one.default, hints) for one in list(inspect.signature(command).parameters.values())[1:]
        ]

        @wraps(command)
        def called(**given: Any) -> None:
            command(options(**{one.name: given.pop(one.name) for one in shared}), **given)

        # Typer reads both.
        called.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in (*shared, *own)}
        return called

    return decorate


def _parameter(name: str, default: Any, kinds: dict[str, Any]) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kinds[name])
