"""Planners: they turn the context of an episode into the next few commands."""

from __future__ import annotations

from erecap.registries import PLANNERS

__all__ = ["PLANNERS", "register"]

register = PLANNERS.register  # (name, factory): adds a planner from another package
