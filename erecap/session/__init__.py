"""Replanning sessions: each token is read once, scored once, and then kept or evicted under a budget."""

from __future__ import annotations

from typing import Any

__all__ = ["ReplanSession"]


def __getattr__(name: str) -> Any:
    if name == "ReplanSession":  # needs torch; importing this package must not
        from erecap.session.session import ReplanSession

        return ReplanSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
