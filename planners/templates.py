"""Command templates such as "take {object} from {receptacle}": filling them in, and matching commands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from string import Formatter

from erecap.errors import ConfigError

Names = Mapping[str, Sequence[str]]  # slot name -> names that can fill it


@lru_cache(maxsize=1024)
def template_parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """A template as (text, slot after it) pairs; the slot is None after the last text.

    Raises:
        ConfigError: braces that do not pair, or a slot that is not a plain name.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"command template {template!r}: {error}") from error
    parts: list[tuple[str, str | None]] = []
    for text, slot, form, conversion in parsed:
        if slot is not None and (not slot.isidentifier() or form or conversion):
            raise ConfigError(f"command template {template!r}: slot {{{slot}}} must be a plain name")
        parts.append((text, slot))
    return tuple(parts)


def fill_templates(templates: Sequence[str], entities: Names) -> list[str]:
    """All commands that the templates and names make, without repetition, in order.

    A template with a slot that has no names makes none.
    """
    commands: dict[str, None] = {}
    for template in templates:
        parts = template_parts(template)
        choices = [entities.get(slot, ()) if slot is not None else ("",) for _, slot in parts]
        for names in product(*choices):
            commands["".join(text + name for (text, _), name in zip(parts, names, strict=True))] = None
    return list(commands)


def matches(command: str, template: str, entities: Names) -> bool:
    """Return True if `command` is the template filled with known names."""
    return _matches_from(command, 0, template_parts(template), 0, entities)


def _matches_from(
    command: str, place: int, parts: tuple[tuple[str, str | None], ...], index: int, entities: Names
) -> bool:
    if index == len(parts):
        return place == len(command)
    text, slot = parts[index]
    if not command.startswith(text, place):
        return False
    place += len(text)
    if slot is None:
        return _matches_from(command, place, parts, index + 1, entities)
    return any(
        command.startswith(name, place) and _matches_from(command, place + len(name), parts, index + 1, entities)
        for name in entities.get(slot, ())
    )


@lru_cache(maxsize=1024)
def _pattern(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    parts = template_parts(template)
    pattern = "".join(re.escape(text) + ("(.+?)" if slot else "") for text, slot in parts)
    return re.compile(pattern), tuple(slot for _, slot in parts if slot)


def bindings(command: str, template: str) -> tuple[tuple[str, str], ...] | None:
    """The slots of a template with what stands there in `command`, known names or not; None for another shape.

    >>> bindings("put cup 1 on table 2", "put {item} on {surface}")
    (('item', 'cup 1'), ('surface', 'table 2'))
    """
    pattern, slots = _pattern(template)
    match = pattern.fullmatch(command)
    return tuple(zip(slots, match.groups(), strict=True)) if match else None
