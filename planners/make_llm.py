"""The factory of the planner `llm`: with the model's own plans, or with the expert's."""

from __future__ import annotations

from erecap.config.run import EXPERT, PlannerSettings
from erecap.errors import ConfigError
from erecap.planners.expert_plans import ExpertPlansPlanner
from erecap.planners.llm import LLMPlanner
from erecap.protocols import LanguageModel


def make_llm_planner(settings: PlannerSettings, model: LanguageModel | None) -> LLMPlanner:
    """The planner `llm` of a run; with `plans: expert` the one that writes the expert's plans.

    Raises:
        ConfigError: there is no model to ask.
    """
    if model is None:
        raise ConfigError("planner.name: the planner llm asks a model, and this mode has none")
    kind = ExpertPlansPlanner if settings.plans == EXPERT else LLMPlanner
    return kind(
        model,
        max_steps=settings.max_steps,
        max_new_tokens=settings.max_new_tokens,
        constrained=settings.constrained,
        stuck_after=settings.stuck_after,
    )
