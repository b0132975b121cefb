"""Schedulers of a run's sessions, with the cost model that was calibrated for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erecap.config.run import ScheduleSettings
from erecap.cost.machine import cost_key
from erecap.cost.model import CostModel
from erecap.cost.store import load_cost_model
from erecap.decoding.linear import Weights
from erecap.errors import ConfigError
from erecap.language_models.opened import OpenedModel
from erecap.scheduling.rules import Scheduler
from erecap.tokens.cache.ropes import window_of_model

_TIMED = ("deadline_ms", "may_defer", "reuse_plan")


def scheduler_maker(
    opened: OpenedModel, settings: ScheduleSettings | None, decode_weights: Weights
) -> Callable[[], Scheduler] | None:
    """A function that makes the scheduler of each episode; None without settings.

    Predictions need what `erecap calibrate` stored for this very model, machine and `decode_weights`.

    Raises:
        ConfigError: settings that need predicted times, and nothing was calibrated.
    """
    if settings is None:
        return None
    timed = [name for name in _TIMED if getattr(settings, name)]
    cost = stored_cost_model(opened, decode_weights, "schedule", timed)
    window = window_of_model(opened.model, reused=True)
    options = settings.model_dump()
    return lambda: Scheduler(cost, budget_tokens=None, window=window, **options)


def stored_cost_model(
    opened: OpenedModel, decode_weights: Weights, section: str, timed: Sequence[str]
) -> CostModel | None:
    """The cost model that `erecap calibrate` stored for this very model, machine and `decode_weights`.

    Args:
        timed: settings of `section` that need predicted times.

    Raises:
        ConfigError: there are such settings, and nothing was calibrated.
    """
    cost = load_cost_model(cost_key(opened.model, decode_weights, weights=opened.cost_print))
    if cost is None and timed:
        raise ConfigError(
            f"{section}: {', '.join(timed)} needs predicted times, and this model was not calibrated here for "
            f"decode_weights {decode_weights}; run `erecap calibrate` with the same settings first"
        )
    return cost
