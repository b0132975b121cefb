"""Draws of worlds and goals that are of no use, so that another one is made."""

from __future__ import annotations

from erecap.errors import GameError


class UselessDraw(GameError):
    """A drawn world that is too crowded, or has no goal of the wanted kind; another draw may do."""
