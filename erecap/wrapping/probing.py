"""Attributes of somebody else's objects, asked for without knowing what the object does when it is asked."""

from __future__ import annotations

from typing import Any


def attribute(thing: Any, name: str) -> Any:
    """The attribute `name` of `thing`; None where there is none, and where asking for it fails.

    An object may compute attributes when it is asked: a lazy import, a proxy, LangChain's `RunnableWithFallbacks`. Such
    an object has no attribute of ours, whatever it raises.
    """
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 (code of the host's object; the same attribute fails in the host's hands, too)
        return None
