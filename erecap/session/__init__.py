"""Replanning sessions: each token is read once, scored once, and then kept or evicted under a budget."""

from __future__ import annotations

from typing import Any

__all__ = ["ReplanPool", "ReplanSession"]


def __getattr__(name: str) -> Any:
    # They need torch; importing this package must not.
    if name == "ReplanSession":
        from erecap.session.session import ReplanSession

        return ReplanSession
    if name == "ReplanPool":
        from erecap.session.pool.pool import ReplanPool

        return ReplanPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
