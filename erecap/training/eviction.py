"""Training under a budget: a transcript is read as a session reads it that evicts when each call returns.

A planner that always had its whole history in training has to cope with holes when it is used. Here the holes are
there in training, too: tokens of a call see what the session would have stored by then, and everything newer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.context.prompt import record_text
from erecap.context.tokenize import render_prompt
from erecap.protocols import Message
from erecap.session.ranking import HEAD, NEWEST, OPEN, PROTECTED, STALE, stay
from erecap.tokens.hooks import find_decoder
from erecap.tokens.learned import LearnedScorer
from erecap.tokens.scorers import ScoreContext
from erecap.training.saliency import SINKS
from erecap.training.sequences import PlanSequence, PlanTarget
from erecap.training.texts import Sample

# How goals and commands begin their lines in a rendered context.
GOAL, COMMAND = (record_text(kind, " ").removesuffix(" ") for kind in ("goal", "action"))
Span = tuple[int, int]


@dataclass(frozen=True)
class History:
    """What decides what a session keeps of a transcript, beside scores. Places are tokens of the transcript."""

    sample: Sample
    system: tuple[Span, ...]  # of the contents of system messages
    goals: tuple[Span, ...]  # of every goal, in order
    plans: tuple[Span, ...]  # per call: the plan that was played
    seen: tuple[Span, ...]  # per call: the newest command and what came of it

    @property
    def sequence(self) -> PlanSequence:
        """The transcript with its labels."""
        return self.sample.sequence

    def end(self, call: int) -> int:
        """Tokens that have been read when `call` is answered: up to the end of its plan."""
        return min(self.plans[call][1], self.sequence.transcript)


def history(sample: Sample, messages: Sequence[Message], targets: Sequence[PlanTarget], tokenizer: Any) -> History:
    """The history of a chat's sample, with goals and commands found in the rendered lines."""
    prompt = render_prompt(messages, tokenizer, add_generation_prompt=False)
    system, goals, plans, seen = [], [], [], []
    for number, message in enumerate(messages):
        start = 0
        if message["role"] == "system":
            system.append(prompt.token_span(number, 0, len(message["content"])))
        for line in message["content"].split("\n"):
            if message["role"] == "user" and line.startswith(GOAL):
                goals.append(prompt.token_span(number, start, start + len(line)))
            start += len(line) + 1
    for target in targets[: sample.calls]:
        plans.append(prompt.token_span(target.message, 0, len(messages[target.message]["content"])))
        newest = messages[target.message - 1]["content"]
        begin = f"\n{newest}".rfind(f"\n{COMMAND}")  # in the first message there is none: what is seen follows the goal
        begin = begin if begin >= 0 else newest.find("\n") + 1
        seen.append(prompt.token_span(target.message - 1, begin, len(newest)))
    return History(sample, tuple(system), tuple(goals), tuple(plans), tuple(seen))


def stored(known: History, scores: torch.Tensor, budget: int) -> torch.Tensor:
    """Which tokens a session has when it begins to read for each call.

    Tiers are those of `erecap.session.ranking`, as an episode's context graph would set them: sinks, system message and
    goal; the plan before the one just written; the newest command and what came of it; the rest by score; older goals
    and plans go first. What else the graph would call stale (an older sight of the same place) is not in a transcript,
    and left to the scores.

    Args:
        known: the transcript.
        scores: `(transcript,)`, finite; higher is kept longer.
        budget: tokens stored when a call returns.

    Returns:
        `(calls, transcript)` bool. Row c is what is left after call c-1; row 0 is empty.

    Raises:
        BudgetError: system and goal exceed the budget.
    """
    calls, total = known.sample.calls, known.sequence.transcript
    kept = torch.zeros(calls, total, dtype=torch.bool)
    held = torch.zeros(0, dtype=torch.long)
    for call in range(calls - 1):
        start = known.end(call - 1) if call else 0
        index = torch.cat([held, torch.arange(start, known.end(call))])
        held = index[stay(index, _tiers(known, call, index), scores[index], budget)]
        kept[call + 1, held] = True
    return kept


def _tiers(known: History, call: int, index: torch.Tensor) -> torch.Tensor:
    """`(n,)` tiers of the tokens at places `index` when `call` has been answered."""
    tier = torch.full(index.shape, OPEN)

    def put(spans: Iterable[Span], level: float) -> None:
        for low, high in spans:
            tier[(index >= low) & (index < high)] = level

    goals = [goal for goal in known.goals if goal[1] <= known.sample.prompt(call)]
    put(known.plans[: max(0, call - 1)], STALE)
    put(goals[:-1], STALE)
    put(known.plans[max(0, call - 1) : call], PROTECTED)
    put([known.seen[call]], NEWEST)
    put([(0, SINKS), *known.system, *goals[-1:]], HEAD)
    return tier


def allowed(known: History, kept: torch.Tensor) -> torch.Tensor:
    """`(1, 1, tokens, tokens)` bool: what each token may attend to at most, in any causal order.

    Args:
        kept: as `stored` gives it.
    """
    sequence = known.sequence
    may = torch.ones(sequence.tokens, sequence.tokens, dtype=torch.bool)
    for call in range(1, known.sample.calls):
        start = known.end(call - 1)
        may[start : known.end(call), :start] = kept[call, :start]
        for branch in sequence.branches:
            if branch.prompt == known.sample.prompt(call):
                may[branch.start : branch.end, :start] = kept[call, :start]
    return may[None, None]


class _Reached(Exception):
    """The layer whose input was wanted has been reached."""


def scores_of(model: Any, scorer: LearnedScorer | None, sequence: PlanSequence) -> torch.Tensor:
    """Scores `(transcript,)` of a transcript's tokens: the scorer's, or without one the place of the token (recency).

    The model reads no further than to the scorer's layer.
    """
    place = torch.arange(sequence.transcript).unsqueeze(0)
    if scorer is None:
        return place[0].float()
    found: list[torch.Tensor] = []

    def take(layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = ScoreContext(place, place, torch.ones_like(place, dtype=torch.bool), 0, None)
        found.append(scorer.score(scorer.layer, hidden.detach(), context)[0].cpu())
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
    """Chooses which transcripts of a training are read under the budget, and makes their masks.

    Args:
        histories: by name of the transcript.
        scorer: ranks tokens; None: the newest are kept.
        budget: tokens stored when a call returns.
        share: of the transcripts that are read under it, drawn anew at each step.
        seed: of the draws.
    """

    def __init__(
        self, histories: dict[str, History], scorer: LearnedScorer | None, budget: int, share: float, seed: int
    ) -> None:
        self._histories, self._scorer, self._budget = histories, scorer, budget
        self._share, self._seed = share, seed

    def drawn(self, step: int, sequence: PlanSequence) -> bool:
        """Whether `sequence` is read under the budget at this step: a function of step and name, so resumes agree."""
        return random.Random(f"{self._seed} holes {step} {sequence.name}").random() < self._share

    def of(self, model: Any, sequence: PlanSequence) -> torch.Tensor | None:
        """`allowed` for `sequence`, with the scores that `model` leads to now; None where all of it fits."""
        known = self._histories[sequence.name]
        if max(known.end(call) for call in range(known.sample.calls)) <= self._budget:
            return None
        return allowed(known, stored(known, scores_of(model, self._scorer, sequence), self._budget))
