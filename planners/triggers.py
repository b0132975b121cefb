"""The replan triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from erecap.errors import ConfigError

Reason = Literal["start", "finished", "failed", "contradicted", "period"]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True)
class Triggers:
    """The replan triggers. Keeps no state: the answer depends on the loop's arguments alone."""

    period: int | None = None  # replan after so many executed steps of a plan; None: never for that reason

    def __post_init__(self) -> None:
        if self.period is not None and self.period < 1:
            raise ConfigError(f"period is {self.period}; it must be 1 or more steps, or null")

    def check(
        self, pending: Sequence[str] | None, *, skills: Sequence[str], executed: int, failed: bool = False
    ) -> Reason | None:
        """The reason to plan again now, or None to go on with the plan. The first that holds, in this order:

        - "start": there is no plan yet (`pending` is None);
        - "failed": the last command had no effect;
        - "finished": no step is left;
        - "contradicted": the next step is not admissible now. The first step of a fresh plan is always tried,
          so that a planner that insists on it meets a failure instead of being asked the same question
          forever;
        - "period": `period` steps of this plan were executed.

        Args:
            pending: steps of the plan that are not executed yet.
            skills: commands that are admissible now.
            executed: steps of this plan that were executed.
            failed: whether the last command failed.
        """
        if pending is None:
            return "start"
        if failed:
            return "failed"
        if not pending:
            return "finished"
        if executed and pending[0] not in skills:
            return "contradicted"
        if self.period is not None and executed >= self.period:
            return "period"
        return None
