"""Prices of planning calls on a world's clock: measured, predicted by a cost model, or fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from erecap.config.clock import ClockSettings, CostSettings
from erecap.config.modes import Mode
from erecap.cost.model import CostModel
from erecap.protocols import Plan, ReadAhead


class Charge(Protocol):
    """Milliseconds that the planner's work costs, before the clock's scale."""

    def call(self, plan: Plan, elapsed_ms: float) -> float:
        """The price of a planning call that took `elapsed_ms`."""

    def reading(self, ahead: ReadAhead, elapsed_ms: float) -> float:
        """The price of reading new observations while a plan is carried out."""


class Measured:
    """The milliseconds that were measured."""

    def call(self, plan: Plan, elapsed_ms: float) -> float:
        return plan.generation.timing.total_ms if plan.generation is not None else elapsed_ms

    def reading(self, ahead: ReadAhead, elapsed_ms: float) -> float:
        return elapsed_ms


def asked_model(plan: Plan) -> bool:
    """Return True if a model was asked for a plan: not for a deferred one, or a robot that goes on waiting."""
    return plan.generation is not None and plan.generation.usage.prompt_tokens > 0


@dataclass(frozen=True)
class Fixed:
    """The same price for each call that asked a model; reading ahead is free."""

    ms: float

    def call(self, plan: Plan, elapsed_ms: float) -> float:
        return self.ms if asked_model(plan) else 0.0

    def reading(self, ahead: ReadAhead, elapsed_ms: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Predicted:
    """The milliseconds that a cost model predicts for the tokens read and decoded; the same on every machine.

    A call of the mode `full` counts as one that reads its prompt on an empty cache and decodes with a pass a token.
    """

    cost: CostModel

    def call(self, plan: Plan, elapsed_ms: float) -> float:
        """The price of a planning call; nothing for one that asked no model."""
        if plan.generation is None or not asked_model(plan):
            return 0.0
        usage = plan.generation.usage
        stored = max(0, max(usage.kept_per_layer, default=0) - usage.new_tokens)  # in the fullest layer, as ahead
        ms = self.cost.predict_replan(
            usage.new_tokens, stored, usage.completion_tokens, passes=usage.decode_passes or None
        )
        if usage.evicted_tokens:
            ms += self.cost.predict_evict(stored + usage.new_tokens + usage.completion_tokens)
        decision = plan.generation.decision
        if decision is not None and decision.action == "splice":
            ms += self.cost.predict_splice(stored)
        return ms

    def reading(self, ahead: ReadAhead, elapsed_ms: float) -> float:
        return self.cost.predict_prefill(ahead.tokens, ahead.stored)


def charge_of(settings: ClockSettings, mode: Mode) -> Charge:
    """The prices of a mode's calls. The expert thinks in no time, as a planner without latency would."""
    if mode.expert:
        return Fixed(0.0)
    if settings.charge == "fixed":
        assert settings.fixed_ms is not None, "checked with the settings"
        return Fixed(settings.fixed_ms)
    if settings.charge == "cost-model":
        assert settings.costs is not None, "checked with the settings"
        return Predicted(cost_model_of(settings.costs))
    return Measured()


def cost_model_of(costs: CostSettings) -> CostModel:
    """The cost model of coefficients as a configuration writes them."""
    parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in costs}
    return CostModel(**parts)
