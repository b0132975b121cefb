"""Opening an engine, with a clear error where a package of the simulator is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erecap.envs.household.data.alfworld_data import need

if TYPE_CHECKING:
    from erecap.envs.household.engine.engine import Engine


def open_engine() -> Engine:
    """Return a new engine. Raises EnvironmentUnavailable where a package of the simulator is missing."""
    for module in ("textworld.envs.pddl", "fast_downward", "tatsu", "networkx", "alfworld.agents.utils.misc"):
        need(module)
    from erecap.envs.household.engine.engine import Engine

    return Engine()
