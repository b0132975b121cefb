"""The test that a pruner must pass: rank correlation with its labels, and plans at equal budget beside other rankers.

For each call of a held-out sample a ranker chooses which tokens of the history stay, as a session would: `budget` of
them, the protected ones (system, goal, newest message) first. The plan's tokens then see what stayed and one another.
What is compared is how far their predictions are from the unpruned model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.generation import JsonRow
from erecap.protocols import ScoreContext
from erecap.registries import SINKS
from erecap.tokens.scoring.learned import LearnedScorer, Pruner
from erecap.tokens.scoring.scorers import RandomScorer
from erecap.training.pruner.loss import targets
from erecap.training.pruner.session_test import SessionTrial
from erecap.training.pruner.soft_pruning import dense_logits, divergence
from erecap.training.rank_correlation import spearman
from erecap.training.saliency.attention import plan_attention
from erecap.training.saliency.files import Labelled
from erecap.training.saliency.forward import forward_masked
from erecap.training.saliency.samples import Sample

RANKERS = ("learned", "attention", "recency", "random")


def correlations(pruner: Pruner, rows: Sequence[Labelled]) -> dict[int, float]:
    """By stage: Spearman of the pruner's scores with the labels, mean over samples, on the hidden states kept."""
    found: dict[int, list[float]] = {stage: [] for stage in pruner.stages}
    device = next(pruner.parameters()).device
    with torch.no_grad():
        for row in rows:
            for number, stage in enumerate(pruner.stages):
                scores = pruner(stage, row.hidden[number].to(device))
                found[stage].append(spearman(scores.cpu(), row.scores[number][row.columns]))
    return {stage: sum(values) / max(1, len(values)) for stage, values in found.items()}


def identity_correlation(train: Sequence[Labelled], held: Sequence[Labelled]) -> float:
    """Spearman on held-out samples of the mean label of a token's id in training: a baseline without hidden states.

    A pruner that comes no higher has learned a list of words.
    """
    sums: dict[int, list[float]] = {}
    for row in train:
        wanted = targets(row.scores[-1][row.valid])
        for token, value in zip(_ids(row), wanted.tolist(), strict=True):
            total = sums.setdefault(token, [0.0, 0.0])
            total[0], total[1] = total[0] + value, total[1] + 1
    found = []
    for row in held:
        guesses = [sums[token][0] / sums[token][1] if token in sums else 0.0 for token in _ids(row)]
        found.append(spearman(torch.tensor(guesses), row.scores[-1][row.valid]))
    return sum(found) / max(1, len(found))


def _ids(row: Labelled) -> list[int]:
    """Ids of the labelled tokens."""
    return row.sample.sequence.ids[: len(row.valid)][row.valid].tolist()


def trial(
    model: Any,
    pruner: Pruner,
    rows: Sequence[Labelled],
    *,
    budget: float,
    kv_tokens: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> JsonRow:
    """Test `pruner` on held-out samples.

    Args:
        model: the model it was trained for, attention implementation `sdpa`.
        rows: samples that it has not been trained on.
        budget: share of a call's history that stays.
        kv_tokens: budget of the same test as sessions evict, on samples that outgrow it.

    Returns:
        `spearman` (by stage), `spearman_session` (of the scores that sessions use, over all labelled tokens),
        `budget`, `rankers` (`kl` in nats and `agreement`, the share of plan tokens with the unpruned model's most
        probable token), `samples`, `calls`, `tokens` (of plans); `sessions`, the result of a `SessionTrial`.
    """
    sums = {name: [0.0, 0] for name in RANKERS}
    tokens = calls = 0
    whole: list[float] = []
    stage = pruner.session_stage
    scorer = LearnedScorer(pruner)
    sessions = SessionTrial(model, kv_tokens)
    for number, row in enumerate(rows):
        sample = row.sample
        seen = plan_attention(model, sample, [stage])
        place = torch.arange(sample.sequence.transcript).unsqueeze(0)
        context = ScoreContext(place, place, torch.ones_like(place, dtype=torch.bool), seed, None)
        learned = scorer.score(stage, seen.hidden, context)[0].cpu()
        whole.append(spearman(learned[row.valid], row.scores[pruner.stages.index(stage)][row.valid]))
        one_for_all = {
            "learned": learned,
            "recency": place[0].float(),
            "random": RandomScorer().score(0, place.unsqueeze(-1), context)[0],
        }
        dense = dense_logits(model, sample)
        for name in RANKERS:
            scores = seen.asked if name == "attention" else one_for_all[name].expand(sample.calls, -1)
            with torch.no_grad():
                pruned = forward_masked(
                    model, sample, rows=sample.sequence.rows, allowed=_kept(sample, scores, budget)
                ).float()
            sums[name][0] += float(divergence(pruned, dense)) * len(dense)
            sums[name][1] += int((pruned.argmax(-1) == dense.argmax(-1)).sum())
        sessions.add(sample, one_for_all, seen, dense, scorer.age_weight)
        tokens, calls = tokens + len(dense), calls + sample.calls
        say(f"tested sample {number + 1} of {len(rows)}")
    return {
        "budget": budget,
        "samples": len(rows),
        "names": [row.name for row in rows],
        "calls": calls,
        "tokens": tokens,
        "spearman": {str(stage): round(value, 4) for stage, value in correlations(pruner, rows).items()},
        "spearman_session": round(sum(whole) / len(whole), 4),
        "rankers": {
            name: {"kl": round(kl / tokens, 6), "agreement": round(same / tokens, 6)}
            for name, (kl, same) in sums.items()
        },
        "sessions": sessions.result(),
    }


def _kept(sample: Sample, scores: torch.Tensor, budget: float) -> torch.Tensor:
    """`(1, 1, tokens, tokens)` bool: the plans' tokens see of their histories only what `scores` `(calls, n)` keep."""
    sequence = sample.sequence
    allowed = torch.ones(sequence.tokens, sequence.tokens, dtype=torch.bool)
    for call in range(sample.calls):
        prompt = sample.prompt(call)
        rows = sample.rows(call)
        values = scores[call, :prompt].clone().double()
        values[: max(SINKS, sample.head)] = torch.inf
        values[sample.newest[call] :] = torch.inf
        count = max(int(budget * prompt), int(values.isinf().sum()))
        # Ties go to the newer token, as in a session.
        gone = prompt - 1 - values.flip(0).argsort(descending=True, stable=True)[count:]
        allowed[rows.unsqueeze(1), gone.unsqueeze(0)] = False
    return allowed[None, None]
