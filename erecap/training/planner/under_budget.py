"""Training under a budget: transcripts are read as by a session that evicts when each call returns.

A planner that always had its whole history in training has to cope with holes when it is used. Here the holes are
there in training, too: tokens of a call see what the session would have stored by then, and everything newer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from erecap.protocols import ScoreContext
from erecap.registries import SINKS
from erecap.session.eviction import HEAD, NEWEST, OPEN, PROTECTED, STALE, staying
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.training.saliency.samples import ChatSpans, Sample, Span
from erecap.training.sequences import PlanSequence


def end_of(sample: Sample, call: int) -> int:
    """Tokens that have been read when `call` is answered: up to the end of its plan."""
    return min(_spans(sample).plans[call][1], sample.sequence.transcript)


def stored(
    sample: Sample, scores: torch.Tensor, budget: int, *, stale_first: bool = True, age_weight: float = 0.0
) -> torch.Tensor:
    """The tokens that a session has stored when it begins the prefill of each call.

    Priorities are those of `erecap.session.eviction`, as an episode's context graph would set them: sinks, system
    message, goal; the plan before the one just written; the newest command and what came of it; the rest by score;
    older goals and plans go first. What else the graph would call stale (an older sight of the same place) is not in a
    transcript, and left to the scores.

    Args:
        sample: of a chat.
        scores: `(transcript,)`, or `(calls, transcript)` where they change from call to call; finite, higher is kept
            longer.
        budget: tokens stored when a call returns.
        stale_first: older goals and plans go before anything else; False: they are ranked like the rest.
        age_weight: of the scorer, see `ReadScorer`.

    Returns:
        `(calls, transcript)` bool. Row c is what is left after call c-1; row 0 is empty.

    Raises:
        BudgetError: system and goal exceed the budget.
    """
    calls, total = sample.calls, sample.sequence.transcript
    scores = scores.expand(calls, -1)
    kept = torch.zeros(calls, total, dtype=torch.bool)
    held = torch.zeros(0, dtype=torch.long)
    priorities = _Priorities(sample, stale_first)
    for call in range(calls - 1):
        start = end_of(sample, call - 1) if call else 0
        end = end_of(sample, call)
        index = torch.cat([held, torch.arange(start, end)])
        values = scores[call, index]
        if age_weight:
            values = values - age_weight * (end - index).to(values.dtype).log()
        stay = staying(priorities.after(call)[index].double().numpy(), values.numpy(), budget)
        held = index[torch.from_numpy(stay)]
        kept[call + 1, held] = True
    return kept


class _Priorities:
    """The eviction priorities of a transcript's tokens, call after call."""

    def __init__(self, sample: Sample, stale_first: bool) -> None:
        self._spans, self._stale_first = _spans(sample), stale_first
        self._prompts = [sample.prompt(call) for call in range(sample.calls)]
        self._lasting = torch.full((sample.sequence.transcript,), OPEN)  # what is stale once stays so

    def after(self, call: int) -> torch.Tensor:
        """`(transcript,)` priorities when `call` has been answered; asked for each call in turn."""
        spans, prompt = self._spans, self._prompts[call]
        goals = [goal for goal in spans.goals if goal[1] <= prompt]
        if self._stale_first:
            _put(self._lasting, [*spans.plans[max(0, call - 2) : max(0, call - 1)], *goals[:-1]], STALE)
        tier = self._lasting.clone()
        _put(tier, spans.plans[max(0, call - 1) : call], PROTECTED)
        _put(tier, [spans.seen[call]], NEWEST)
        _put(tier, [(0, SINKS), *spans.system, *goals[-1:]], HEAD)
        return tier


def _put(tier: torch.Tensor, spans: Iterable[Span], level: float) -> None:
    for low, high in spans:
        tier[low:high] = level


def _spans(sample: Sample) -> ChatSpans:
    if sample.spans is None:
        raise ValueError(f"{sample.sequence.name}: plain text has no calls after which anything is evicted")
    return sample.spans


def allowed(sample: Sample, kept: torch.Tensor) -> torch.Tensor:
    """`(1, 1, tokens, tokens)` bool: the most that each token may attend to, in any causal order.

    Args:
        kept: as `stored` gives it.
    """
    sequence = sample.sequence
    may = torch.ones(sequence.tokens, sequence.tokens, dtype=torch.bool)
    branches = {branch.prompt: branch for branch in sequence.branches}
    for call in range(1, sample.calls):
        start = end_of(sample, call - 1)
        may[start : end_of(sample, call), :start] = kept[call, :start]
        branch = branches.get(sample.prompt(call))
        if branch is not None:
            may[branch.start : branch.end, :start] = kept[call, :start]
    return may[None, None]


class _Reached(Exception):
    """The layer whose input was wanted has been reached."""


def scores_of(model: Any, scorer: LearnedScorer | None, sequence: PlanSequence) -> torch.Tensor:
    """Importance scores `(transcript,)` of a transcript's tokens: the scorer's; without one, their indices (recency).

    The model reads no further than to the scorer's layer.
    """
    place = torch.arange(sequence.transcript).unsqueeze(0)
    if scorer is None:
        return place[0].float()
    found: list[torch.Tensor] = []

    def take(layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = ScoreContext(place, place, torch.ones_like(place, dtype=torch.bool), 0, None)
        with torch.autocast(hidden.device.type, enabled=False):  # close ranks want more digits than bfloat16 has
            found.append(scorer.score(scorer.layer, hidden.detach().float(), context)[0].float().cpu())
        raise _Reached

    handle = find_decoder(model).layers[scorer.layer].register_forward_pre_hook(take, with_kwargs=True)  # type: ignore[index]
    try:
        with torch.no_grad():
            model(input_ids=sequence.ids[: sequence.transcript].unsqueeze(0).to(model.device), use_cache=False)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


class Holes:
    """Chooses the transcripts of a training that are read under the budget, and makes their masks.

    Args:
        samples: by name of the transcript.
        scorer: ranks tokens; None: the newest are kept.
        budget: tokens stored when a call returns.
        share: of the transcripts that are read under it, drawn anew at each step.
        seed: of the draws.
    """

    def __init__(
        self, samples: Mapping[str, Sample], scorer: LearnedScorer | None, budget: int, share: float, seed: int
    ) -> None:
        self._samples, self._scorer, self._budget = samples, scorer, budget
        self._share, self._seed = share, seed

    def drawn(self, step: int, sequence: PlanSequence) -> bool:
        """Return True if `sequence` is read under the budget at this step, as step and name decide: resumes agree."""
        return random.Random(f"{self._seed} holes {step} {sequence.name}").random() < self._share

    def of(self, model: Any, sequence: PlanSequence) -> torch.Tensor | None:
        """`allowed` for `sequence`, with the scores that `model` leads to now; None where all of it fits."""
        sample = self._samples[sequence.name]
        if end_of(sample, sample.calls - 1) <= self._budget:
            return None
        age_weight = self._scorer.age_weight if self._scorer is not None else 0.0
        kept = stored(sample, scores_of(model, self._scorer, sequence), self._budget, age_weight=age_weight)
        return allowed(sample, kept)
