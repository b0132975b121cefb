"""The evaluations of a training on held-out episodes, and the best weights among those evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from erecap.training.planner.model import Trainee
from erecap.training.planner.scores import Scores, score
from erecap.training.planner.under_budget import Holes
from erecap.training.sequences import PlanSequence


class Best:
    """Scores the trainee, and remembers its best weights.

    Args:
        trainee: the model.
        held_out: sequences that are scored and not learned; may be empty.
        holes: scores them as under a budget, too; None: read whole only.
        say: takes lines for the person who waits.
    """

    def __init__(
        self, trainee: Trainee, held_out: Sequence[PlanSequence], holes: Holes | None, say: Callable[[str], None]
    ) -> None:
        self.scores: Scores | None = None
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.worse = 0  # evaluations since
        self.evaluated = -1  # step of the newest evaluation
        self.seconds = 0.0  # that evaluations took in this process
        self._trainee, self._held_out, self._holes, self._say = trainee, held_out, holes, say

    def evaluate(self, step: int, steps: int) -> dict[str, Any]:
        """Score the weights of `step` of `steps`, and keep them if they are the best; returns a row for the log.

        Raises:
            RunError: a loss is not finite.
        """
        started = time.perf_counter()
        whole, within = self._score()
        row: dict[str, Any] = {"held_out": whole.facts()}
        if within is not None:
            row["within_budget"] = within.facts()
            self._say(f"within the budget: plans right {within.plan_accuracy:.1%}, loss {within.loss:.4f}")
        self._say(
            f"step {step}/{steps}: held out: loss {whole.loss:.4f}, tokens right "
            f"{whole.token_accuracy:.1%}, plans right {whole.plan_accuracy:.1%} of {whole.plans}"
        )
        scores = _together(whole, within)
        self.evaluated, self.worse = step, self.worse + 1
        if scores.better_than(self.scores):
            self.scores, self.step, self.worse = scores, step, 0
            self.weights = dict(self._trainee.state())
        took = time.perf_counter() - started
        self.seconds += took
        return {**row, "seconds": round(took, 3)}

    def choose(self, step: int, *, ended: bool) -> int:
        """Give the model the weights to ship, and return their step: the best ones that were evaluated.

        Where the time was up between two evaluations, the present weights are evaluated for this, and shipped if they
        are better. The checkpoint knows nothing of it: a resumed training ends as an uninterrupted one.

        Args:
            step: of the present weights.
            ended: the training is over; else its time was up.
        """
        if not self.weights:
            return step
        if not ended and step != self.evaluated and _together(*self._score()).better_than(self.scores):
            return step
        self._trainee.set_state(self.weights)
        return self.step

    def facts(self) -> dict[str, Any]:
        """Values that a checkpoint keeps beside the weights."""
        scores = self.scores.facts() if self.scores else None
        return {"best": scores, "best_step": self.step, "worse": self.worse, "evaluated": self.evaluated}

    def restore(self, facts: Mapping[str, Any], weights: dict[str, torch.Tensor]) -> None:
        """Go on with what `facts` gave."""
        self.scores = Scores(**facts["best"]) if facts["best"] else None
        self.step, self.worse, self.evaluated = facts["best_step"], facts["worse"], facts["evaluated"]
        self.weights = weights

    def _score(self) -> tuple[Scores, Scores | None]:
        """Of the held-out episodes, read whole; and under the budget, where there is one."""
        whole = score(self._trainee, self._held_out)
        return whole, None if self._holes is None else score(self._trainee, self._held_out, self._holes)


def _together(whole: Scores, within: Scores | None) -> Scores:
    """Both ways of planning count alike where both are trained."""
    return whole if within is None else whole.mean_with(within)
