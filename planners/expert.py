"""The expert planner, the upper bound: it follows the environment's expert."""

from __future__ import annotations

from erecap.config.run import PlannerSettings
from erecap.context import Context
from erecap.errors import ConfigError
from erecap.protocols import LanguageModel, Plan


class ExpertPlanner:
    """Plans the expert's next commands, `context.situation.expert_actions`.

    The environment must be made with `expert=True`. Without expert actions the plan has a problem.

    Args:
        max_steps: the longest plan, in commands; at least 1.
    """

    def __init__(self, max_steps: int = 5) -> None:
        if max_steps < 1:
            raise ConfigError(f"max_steps is {max_steps}; it must be 1 or more")
        self.max_steps = max_steps

    def plan(self, context: Context) -> Plan:
        steps = tuple(context.situation.expert_actions[: self.max_steps])
        if not steps:
            return Plan((), "", "the environment's expert gives no actions here")
        return Plan(steps, "\n".join(steps))


def make_expert_planner(settings: PlannerSettings, model: LanguageModel | None) -> ExpertPlanner:
    """The planner of the mode `expert`; it asks no model."""
    return ExpertPlanner(max_steps=settings.max_steps)
