"""Typed records of an episode, and the chat that a planner model reads.

Rendering, fitting and the graph are in modules of their own: records alone stay light to import.
"""

from erecap.context.records import KINDS, Context, Kind, Record, Situation

__all__ = ["KINDS", "Context", "Kind", "Record", "Situation"]
