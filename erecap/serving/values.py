"""Values of a request that parse as JSON and that nothing behind can read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def depth(value: Any) -> int:
    """Levels of lists and objects in a value, counted without going down into them by calls."""
    level, found = [value], 0
    while level := [inner for one in level for inner in _inside(one)]:
        found += 1
    return found


def unreadable(given: dict[str, Any]) -> tuple[str, str] | None:
    """The place of the first value that is half of a surrogate pair or no finite number, and what it is, in words.

    Tokenizers and grammars take neither. Keys are looked at as well.

    Args:
        given: a request, nested no deeper than calls of functions may be.
    """
    for key, value in given.items():
        if (words := _wrong(key)) is not None:
            return ascii(key)[1:-1][:60], words
        if (found := _unreadable(value, key[:60])) is not None:
            return found
    return None


def _unreadable(value: Any, place: str) -> tuple[str, str] | None:
    if (words := _wrong(value)) is not None:
        return place, words
    if isinstance(value, list):
        pairs: Iterable[tuple[str, Any]] = ((f"{place}[{at}]", one) for at, one in enumerate(value))
    elif isinstance(value, dict):
        if (key := next((key for key in value if _wrong(key) is not None), None)) is not None:
            return place, f"the key {key!a:.60}, which has half of a surrogate pair"
        pairs = ((f"{place}.{key:.60}", one) for key, one in value.items())
    else:
        return None
    return next((found for at, one in pairs if (found := _unreadable(one, at)) is not None), None)


def _wrong(value: Any) -> str | None:
    """Words on a text or a number that cannot be read."""
    if isinstance(value, str):
        found = None if value.isascii() else _HALF.search(value)
        return None if found is None else f"half of a surrogate pair at character {found.start()}; wanted valid Unicode"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}; wanted a finite number"
    return None


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
