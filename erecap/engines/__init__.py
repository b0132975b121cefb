"""Engines: they hold a conversation's keys and values and run its forward passes, behind one protocol.

`register("mine", factory)` adds an engine from another package; `ReplanSession(model, tokenizer, engine="mine")` then
calls `factory(model, settings)`, see `erecap.engines.protocol`.
"""

from __future__ import annotations

from erecap.registries import ENGINES

register = ENGINES.register  # (name, factory): adds an engine from another package

__all__ = ["ENGINES", "register"]
