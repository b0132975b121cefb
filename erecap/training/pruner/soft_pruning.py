"""The task term: a differentiable model that prunes by the pruner's scores, against the dense model.

Tokens that a stage drops are masked out of attention from its layer on, as in DynamicViT (arXiv 2106.02034, eq. 10-11):
the softmax is taken over kept keys, and a token always sees itself. (Scaling hidden states instead would be undone by
the next norm.) Whether a token is kept is a straight-through Gumbel-softmax over its score; what one stage
drops, later stages cannot bring back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from erecap.errors import ConfigError
from erecap.registries import SINKS
from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring.learned import Pruner
from erecap.training.saliency.attention import attention_by
from erecap.training.saliency.forward import forward_masked
from erecap.training.saliency.samples import Sample


def dense_logits(model: Any, sample: Sample) -> torch.Tensor:
    """Logits `(labels, vocabulary)` of the unpruned model for the tokens of all calls."""
    with torch.no_grad():
        return forward_masked(model, sample, rows=sample.sequence.rows).float()


def divergence(pruned: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of the dense model's predictions `(n, vocabulary)` from the pruned one's, in nats."""
    return functional.kl_div(pruned.log_softmax(-1), dense.log_softmax(-1), log_target=True, reduction="batchmean")


class SoftPruning:
    """One differentiable pruned forward pass of a frozen model.

    Args:
        keep: share of its tokens that a stage keeps.
        temperature: of the Gumbel-softmax; lower is nearer to a step, with steeper gradients.
        generator: draws the noise; None: none, tokens above the threshold are kept.

    After `logits`, `scores[stage]` `(transcript,)` are the scores given, `kept[stage]` counts the tokens kept, and
    `remaining` `(tokens,)` is 1 for tokens that every stage kept. Tokens that are `fixed` are never dropped, and
    `together` `(tokens, tokens)` says which are read in one call, where nothing is dropped yet.
    """

    def __init__(
        self,
        model: Any,
        pruner: Pruner,
        sample: Sample,
        *,
        keep: float,
        temperature: float,
        generator: torch.Generator | None,
    ) -> None:
        self._model, self._pruner, self._sample = model, pruner, sample
        self._share, self._temperature, self._generator = keep, temperature, generator
        sequence, config = sample.sequence, find_decoder(model).config
        if getattr(config, "attn_logit_softcapping", None):
            raise ConfigError("the task term does not know models that cap attention scores; train with --no-task")
        self._windows = layer_windows(config)
        self._allowed = {w: sequence.visible(w)[0, 0].to(model.device) for w in set(self._windows)}
        self.remaining = torch.ones(sequence.tokens, device=model.device)
        # Never dropped: sinks, system and goal, and what is no history: the branches.
        self.fixed = torch.ones(sequence.tokens, dtype=torch.bool, device=model.device)
        self.fixed[max(SINKS, sample.head) : sequence.transcript] = False
        self.together = self._same_call().to(model.device)
        self.scores: dict[int, torch.Tensor] = {}
        self.kept: dict[int, int] = {}

    def logits(self) -> torch.Tensor:
        """Logits `(labels, vocabulary)`, float32, differentiable with respect to the pruner."""
        with torch.enable_grad(), self._stages(), attention_by(self._model, self._attend):
            return forward_masked(self._model, self._sample, rows=self._sample.sequence.rows, placeholder=True).float()

    def _same_call(self) -> torch.Tensor:
        """`(tokens, tokens)` bool: tokens of the plan that is being written see each other, and its newest message."""
        sequence = self._sample.sequence
        together = torch.eye(sequence.tokens, dtype=torch.bool)
        for call in range(self._sample.calls):
            rows = self._sample.rows(call)
            together[rows.unsqueeze(1), rows.unsqueeze(0)] = True
            together[rows, self._sample.newest[call] : self._sample.prompt(call)] = True
        return together

    @contextmanager
    def _stages(self) -> Iterator[None]:
        layers = find_decoder(self._model).layers
        handles = [
            layers[stage].register_forward_pre_hook(self._hook(stage), with_kwargs=True)  # type: ignore[index]
            for stage in self._pruner.stages
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, stage: int) -> Any:
        def decide(layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = (args[0] if args else kwargs["hidden_states"])[0]
            scores = self._pruner(stage, hidden)
            self.scores[stage] = scores[: self._sample.sequence.transcript]
            self.remaining = self.remaining * self._keep(scores)
            self.kept[stage] = int(self.remaining[: self._sample.sequence.transcript].sum())

        return decide

    def _keep(self, scores: torch.Tensor) -> torch.Tensor:
        """`(tokens,)`: 1 where a token is kept and 0 where not, with the gradient of its probability."""
        free = (self.remaining.detach() > 0) & ~self.fixed
        if not bool(free.any()):
            return torch.ones_like(scores)
        own = scores.detach()[free]
        # The threshold is where the wanted share passes it; so no further term has to hold the share.
        threshold = own.quantile(1 - self._share)
        margin = (scores - threshold) / (own.std(correction=0) + 1e-6)
        noise = torch.zeros_like(margin)
        if self._generator is not None:
            uniform = torch.rand(len(margin), generator=self._generator).clamp(1e-6, 1 - 1e-6)
            noise = uniform.logit().to(margin.device)  # the difference of two Gumbel variables
        soft = ((margin + noise) / self._temperature).sigmoid()
        hard = (soft > 0.5).float()
        return torch.where(self.fixed, torch.ones_like(soft), hard + soft - soft.detach())

    def _attend(
        self, function: Any, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        allowed = self._allowed[self._windows[module.layer_idx]]
        if module.layer_idx < self._pruner.stages[0]:
            return function(module, query, key, value, allowed[None, None], **kwargs)
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        logits = (query @ key.transpose(2, 3)).float() * scaling
        logits = logits.masked_fill(~allowed, torch.finfo(torch.float32).min)
        policy = torch.where(self.together, 1.0, self.remaining.unsqueeze(0))
        shares = (logits - logits.amax(-1, keepdim=True).detach()).exp() * allowed * policy
        shares = shares / (shares.sum(-1, keepdim=True) + 1e-9)
        return (shares.to(value.dtype) @ value).transpose(1, 2), None
