"""Agreement of pruned reads with the unmodified model on plan tokens, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.errors import RunError
from erecap.models.cache_argument import CACHE
from erecap.tokens import PruneConfig, prune
from erecap.tuning.candidates import Stages
from erecap.tuning.samples import Sample


@dataclass(frozen=True)
class Answers:
    """The results of one stage set, sample by sample."""

    kept: list[list[int]]  # prompt tokens that each layer read
    same: list[int]  # plan tokens predicted as by the unmodified model
    tokens: list[int]  # plan tokens compared


class Judge:
    """Compares stage sets on the same samples; the unmodified model is asked once.

    A call reads its whole prompt at once and drops tokens on the way, as the modes `prune[...]` do. Then the plan's
    tokens are read from that cache, and at each token the most probable next one counts.

    Args:
        model: a causal language model of transformers, in eval mode.
        samples: planning calls.
        keep: share of its tokens that a stage keeps.
        scorer: a name of `erecap.tokens.SCORER_NAMES`, or a scorer.
        seed: of the `random` scorer.
    """

    def __init__(self, model: Any, samples: Sequence[Sample], keep: float, scorer: Any, seed: int = 0) -> None:
        self.model, self.samples = model, samples
        self.keep, self.scorer, self.seed = keep, scorer, seed
        self._wanted: list[torch.Tensor] | None = None

    def config(self, stages: Stages) -> PruneConfig:
        """The pruning configuration of a read with these stages."""
        return PruneConfig(scorer=self.scorer, keep=self.keep, stages=stages, seed=self.seed)

    def compare(self, stages: Stages) -> Answers:
        """Read all samples with these stages.

        Raises:
            RunError: logits that are not finite; the sample is named.
        """
        if self._wanted is None:
            self._wanted = [self.unpruned(number) for number in range(len(self.samples))]
        answers = Answers([], [], [])
        for number, (sample, wanted) in enumerate(zip(self.samples, self._wanted, strict=True)):
            given, kept = self.pruned(number, stages)
            answers.kept.append(kept)
            answers.same.append(int((given == wanted).sum()))
            answers.tokens.append(len(sample.plan))
        return answers

    def unpruned(self, number: int) -> torch.Tensor:
        """Most probable tokens `(plan tokens,)` of the unmodified model."""
        sample = self.samples[number]
        return _best(unpruned_logits(self.model, sample.prompt, sample.plan), f"sample {number}, unpruned")

    def pruned(self, number: int, stages: Stages) -> tuple[torch.Tensor, list[int]]:
        """As `unpruned`, after a pruned read; and the tokens that each layer read of the prompt."""
        sample = self.samples[number]
        logits, kept = pruned_logits(self.model, self.config(stages), sample.prompt, sample.plan, sample.protect)
        return _best(logits, f"sample {number}, stages {list(stages)}"), kept


def unpruned_logits(model: Any, context: Sequence[int], continuation: Sequence[int]) -> torch.Tensor:
    """Logits `(len(continuation), vocab)` of the unmodified model before each token of a continuation."""
    with torch.no_grad():
        ids = _tensor(model, [*context, *continuation[:-1]])
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=len(continuation)).logits[0]
    return logits


def pruned_logits(
    model: Any,
    config: PruneConfig,
    context: Sequence[int],
    continuation: Sequence[int],
    protect: Sequence[tuple[int, int]] = (),
) -> tuple[torch.Tensor, list[int]]:
    """As `unpruned_logits`, after a pruned prefill of the context; and the tokens that each layer read of it.

    Args:
        protect: token indices `(start, end)` of the context that no stage drops.
    """
    with torch.no_grad(), prune(model, config, protect=list(protect)) as cache:
        read = model(input_ids=_tensor(model, context), **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        rows = [read.logits[0, -1:]]
        kept = list(cache.prompt_kept)
        if len(continuation) > 1:
            ids = _tensor(model, continuation[:-1])
            rows.append(model(input_ids=ids, **{CACHE: cache}, use_cache=True).logits[0])
    return torch.cat(rows), kept


def _tensor(model: Any, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(ids)], device=model.device)


def _best(logits: torch.Tensor, where: str) -> torch.Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise RunError(f"{where}: logits that are not finite; try dtype float32")
    return logits.argmax(-1)
