"""The loss of plans, and their accuracy when every earlier token is the expert's (teacher-forced)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from erecap.errors import RunError
from erecap.training.collect.trajectories import transcript_place
from erecap.training.planner.batches import batch_logits
from erecap.training.planner.model import Trainee
from erecap.training.planner.under_budget import Holes
from erecap.training.sequences import PlanSequence, plan_logits


@dataclass(frozen=True)
class Scores:
    """Scores of held-out plans."""

    loss: float  # nats a plan token
    token_accuracy: float
    plan_accuracy: float  # share of plans of which every token is right, the end included
    plans: int

    def better_than(self, other: Scores | None) -> bool:
        """Return True if more plans are right; at equal numbers, if the loss is lower."""
        return other is None or (self.plan_accuracy, -self.loss) > (other.plan_accuracy, -other.loss)

    def mean_with(self, other: Scores) -> Scores:
        """The means of both; of as many plans."""
        return Scores(
            (self.loss + other.loss) / 2,
            (self.token_accuracy + other.token_accuracy) / 2,
            (self.plan_accuracy + other.plan_accuracy) / 2,
            self.plans,
        )

    def facts(self) -> dict[str, Any]:
        """The scores as JSON values."""
        return asdict(self)


def plan_loss(
    trainee: Trainee, sequence: PlanSequence, may: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of a sequence's labels, in nats and float32; and `(labels,)` bool, which are predicted.

    `may` is what each token may attend to at most, as in `plan_logits`.
    """
    with trainee.precision():
        logits = plan_logits(trainee.model, sequence, may)
    labels = sequence.labels.to(logits.device)
    right = logits.detach().argmax(-1) == labels
    return cross_entropy(logits.float(), labels, reduction="sum"), right


def holes_of(trainee: Trainee, sequence: PlanSequence, holes: Holes | None) -> torch.Tensor | None:
    """`Holes.of` with the trainee's present weights, in its precision; None without holes."""
    if holes is None:
        return None
    with trainee.precision():
        return holes.of(trainee.model, sequence)


def batch_loss(
    trainee: Trainee, sequences: Sequence[PlanSequence], mays: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Summed cross-entropy of the labels of several sequences, read in one forward pass; see `plan_loss`."""
    with trainee.precision():
        each = batch_logits(trainee.model, sequences, mays)
    losses = [
        cross_entropy(logits.float(), sequence.labels.to(logits.device), reduction="sum")
        for logits, sequence in zip(each, sequences, strict=True)
    ]
    return torch.stack(losses).sum()


def score(trainee: Trainee, sequences: Iterable[PlanSequence], holes: Holes | None = None) -> Scores:
    """Score all plans of `sequences`, at least one; with `holes`, as they are planned under that budget.

    Raises:
        RunError: a loss is not finite; names the sequence.
    """
    loss, tokens, tokens_right, plans, plans_right = 0.0, 0, 0, 0, 0
    trainee.model.eval()
    with torch.no_grad():
        for sequence in sequences:
            may = holes_of(trainee, sequence, holes)
            summed, right = plan_loss(trainee, sequence, may)
            if not math.isfinite(float(summed)):
                raise RunError(f"the loss of held-out transcript {sequence.name} is {float(summed)}: not scored")
            wrong = torch.zeros(int(sequence.calls[-1]) + 1).index_add_(0, sequence.calls, (~right.cpu()).float())
            loss += float(summed)
            tokens += len(right)
            tokens_right += int(right.sum())
            plans += len(wrong)
            plans_right += int((wrong == 0).sum())
    return Scores(loss / tokens, tokens_right / tokens, plans_right / plans, plans)


def score_by_folder(trainee: Trainee, sequences: Sequence[PlanSequence]) -> tuple[Scores, dict[str, Scores]]:
    """Scores of all plans, and of those of each trajectory folder by its name. Raises as `score`."""
    folders = sorted({transcript_place(sequence.name)[0] for sequence in sequences})
    parts = {name: [one for one in sequences if transcript_place(one.name)[0] == name] for name in folders}
    found = {name: score(trainee, own) for name, own in parts.items()}
    tokens = {name: sum(len(one.labels) for one in own) for name, own in parts.items()}
    every, plans = sum(tokens.values()), sum(scores.plans for scores in found.values())
    merged = Scores(
        sum(scores.loss * tokens[name] for name, scores in found.items()) / every,
        sum(scores.token_accuracy * tokens[name] for name, scores in found.items()) / every,
        sum(scores.plan_accuracy * scores.plans for scores in found.values()) / plans,
        plans,
    )
    return merged, found
