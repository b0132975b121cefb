"""The key of a conversation, by which its requests go to one of several servers."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = "x-session-id"  # a client that names its conversation there need not have it guessed
FIELDS = ("prompt_cache_key", "conversation", "user")  # of a body, for the same
_POINTS = 64  # of each server on the ring
_BEGINNING = 256  # characters of a text that name it, or tokens


def conversation_of(asked: Any) -> str:
    """The words that a conversation begins with, or the name that a request gives it: equal in all of its requests.

    A chat's are all messages up to the first of the user, which nothing changes afterwards. A text's are its first
    characters or tokens: texts with one long beginning are one conversation here, unless a name tells them apart.

    Args:
        asked: the body of a request; any JSON value.
    """
    if not isinstance(asked, Mapping):
        return ""
    for field in FIELDS:
        if isinstance(asked.get(field), str) and asked[field]:
            return f"{field} {asked[field]}"
    items = asked.get("messages", asked.get("input", asked.get("prompt")))
    if isinstance(items, str):
        return f"text {items[:_BEGINNING]}"
    if not isinstance(items, list):
        return ""
    first = next((n for n, item in enumerate(items) if _is_of_user(item)), None)
    if first is None:  # tokens of a text, most likely; all of them would be another key in every request
        first = _BEGINNING - 1
    try:
        return json.dumps([asked.get("instructions"), items[: first + 1]], sort_keys=True, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""


def conversation_of_body(content: bytes) -> str:
    """The same of a body as it came; "" for one that is no JSON."""
    try:
        return conversation_of(json.loads(content))
    except (ValueError, RecursionError):
        return ""


def _is_of_user(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("role") == "user"


class HashRing:
    """Consistent hashing: when a server comes or goes, only its own keys move.

    Args:
        names: of the servers; the order does not matter.
    """

    def __init__(self, names: Sequence[str]) -> None:
        points = [(_hash(f"{name} {point}"), number) for number, name in enumerate(names) for point in range(_POINTS)]
        self._points = sorted(points)
        self._hashes = [point for point, _ in self._points]
        self._servers = len(names)

    def order(self, key: str) -> list[int]:
        """Numbers of all servers: the key's own first, then those that take its place, in their order."""
        start = bisect(self._hashes, _hash(key))
        found: dict[int, None] = {}
        for offset in range(len(self._points)):
            found[self._points[(start + offset) % len(self._points)][1]] = None
            if len(found) == self._servers:
                break
        return list(found)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
