"""The pruner's test as sessions use it: evicted tokens stay evicted, call after call, under a budget in tokens."""

from __future__ import annotations

from typing import Any

import torch

from erecap.generation import JsonRow
from erecap.training.planner.under_budget import allowed, end_of, stored
from erecap.training.pruner.soft_pruning import divergence
from erecap.training.saliency.attention import Seen
from erecap.training.saliency.forward import forward_masked
from erecap.training.saliency.samples import Sample

ORACLE = "oracle"  # ranks by the attention weights of later plans, which no pruner can know
AGELESS = "learned, without age"


class SessionTrial:
    """Sums over samples; calls whose history fits into the budget do not count, for there nothing is evicted.

    Args:
        model: attention implementation `sdpa`.
        kv_tokens: the budget.
    """

    def __init__(self, model: Any, kv_tokens: int) -> None:
        self._model, self._budget = model, kv_tokens
        self._sums: dict[str, list[float]] = {}
        self._tokens = self._plans = self._samples = 0

    def add(
        self, sample: Sample, scores: dict[str, torch.Tensor], seen: Seen, dense: torch.Tensor, age_weight: float
    ) -> None:
        """Measure a sample whose history outgrows the budget; others are passed over.

        Args:
            scores: by ranker, `(transcript,)`; `attention` is measured as its mode works, from `seen`.
            dense: logits `(labels, vocabulary)` of the unpruned model.
            age_weight: of the scorer whose scores are `learned`; with another than 0 they are also measured without it.
        """
        if sample.spans is None:
            return
        sequence = sample.sequence
        long = torch.tensor([call > 0 and end_of(sample, call - 1) > self._budget for call in range(sample.calls)])
        counted = long[sequence.calls]
        if not bool(counted.any()):
            return
        plans = sequence.calls[counted].unique()
        self._samples += 1
        self._plans += len(plans)
        self._tokens += int(counted.sum())
        ranked = {**scores, "attention": _asked(sample, seen), ORACLE: _paid_later(seen.paid)}
        if age_weight:
            ranked[AGELESS] = scores["learned"]
        for name, values in ranked.items():
            # As in play: only our mode and its upper bound know what is stale.
            ours = name in ("learned", AGELESS, ORACLE)
            weight = age_weight if name == "learned" else 0.0
            kept = stored(sample, values, self._budget, stale_first=ours, age_weight=weight)
            with torch.no_grad():
                pruned = forward_masked(
                    self._model, sample, rows=sequence.rows[counted], allowed=allowed(sample, kept)
                ).float()
            same = pruned.argmax(-1) == dense[counted].argmax(-1)
            sums = self._sums.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += float(divergence(pruned, dense[counted])) * len(pruned)
            sums[1] += int(same.sum())
            sums[2] += sum(bool(same[sequence.calls[counted] == call].all()) for call in plans)

    def result(self) -> JsonRow | None:
        """The measurements; None without samples.

        `kv_tokens`, `samples`, `plans`, `tokens` (of the plans); `rankers` as in the test of one call, and the share of
        plans all of whose tokens have the unpruned model's most probable one, `plans_agreement`. A plan is what a
        single forgotten fact spoils, and most tokens follow from the tokens just before them.
        """
        if not self._samples:
            return None
        return {
            "kv_tokens": self._budget,
            "samples": self._samples,
            "plans": self._plans,
            "tokens": self._tokens,
            "rankers": {
                name: {
                    "kl": round(kl / self._tokens, 6),
                    "agreement": round(same / self._tokens, 6),
                    "plans_agreement": round(whole / self._plans, 6),
                }
                for name, (kl, same, whole) in self._sums.items()
            },
        }


def _asked(sample: Sample, seen: Seen) -> torch.Tensor:
    """`(calls, transcript)`: attention weights of each prompt's last token; newer text ranks first."""
    asked = seen.asked.clone()
    for call in range(sample.calls):
        asked[call, sample.prompt(call) :] = 1.0
    return asked


def _paid_later(paid: torch.Tensor) -> torch.Tensor:
    """`(calls, transcript)`: largest attention weight of any plan after a call."""
    later = paid.flip(0).cummax(0).values.flip(0)
    return torch.cat([later[1:], torch.zeros_like(later[:1])])
