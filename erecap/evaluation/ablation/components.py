"""The components of an ablation's runs: planners whose sessions are thrown away, or that write freely."""

from __future__ import annotations

from collections.abc import Mapping

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.context import Context
from erecap.evaluation.ablation.parts import CONSTRAINTS, REUSE
from erecap.protocols import LanguageModel, Plan, Planner
from erecap.registries import PLANNERS
from erecap.rollout.components import RealComponents


class AnewPlanner:
    """A planner whose model forgets the conversation before every plan, so that it reads the whole chat again."""

    def __init__(self, planner: Planner, model: LanguageModel) -> None:
        self._planner, self._model = planner, model

    def plan(self, context: Context) -> Plan:
        """The planner's plan."""
        self._model.reset()
        return self._planner.plan(context)


class AblationComponents(RealComponents):
    """The usual components; two variants differ in their planner and not in their mode."""

    def __init__(self, config: RunConfig, suites: Mapping[str, Suite]) -> None:
        super().__init__(config, suites)
        self._settings = config.planner

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        usual = super().planner(mode, trace=trace)
        if mode.name == f"without-{REUSE}":
            return AnewPlanner(usual, self.language_model(mode))
        if mode.name == f"without-{CONSTRAINTS}":
            freely = self._settings.model_copy(update={"constrained": False, "stuck_after": None})
            planner: Planner = PLANNERS.get_or_refuse(freely.name, "planner.name")(freely, self.language_model(mode))
            return planner
        return usual
