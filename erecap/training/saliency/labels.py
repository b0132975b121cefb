"""Saliency labels: the importance of each token of a history, measured by what follows.

Three kinds. `language-model` and `plan-loss` are the gradient saliency of SDTP: for token i before layer l,
`|h . dL/dh|` with h the input of layer l, and L the loss of all following tokens, or of the plans alone. (The signed
product would rank highest what the loss would *fall* without.) `plan-attention` is in `saliency_attention.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from erecap.errors import ConfigError, RunError
from erecap.registries import SINKS
from erecap.training.saliency.attention import plan_attention
from erecap.training.saliency.forward import forward_masked, layer_inputs
from erecap.training.saliency.samples import Sample

Kind = Literal["language-model", "plan-loss", "plan-attention"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Labels:
    """The saliency of the tokens of one sample's transcript."""

    scores: torch.Tensor  # (stages, tokens) float32, not negative
    valid: torch.Tensor  # (tokens,) bool: labelled; False for sinks, and for what no call comes after
    by_call: torch.Tensor  # (calls, tokens) float32 of `plan-attention`: weights of each plan; (0, tokens) else
    hidden: torch.Tensor  # (stages, tokens, hidden_size): the inputs of the pruning layers


def label(model: Any, sample: Sample, stages: Sequence[int], kind: Kind, *, discount: float = 1.0) -> Labels:
    """Label one sample.

    Args:
        model: in float32 and evaluation mode, its parameters frozen.
        stages: pruning layers.
        kind: see above.
        discount: for `plan-attention`: a plan counts this much less for every plan that lies between. A label is the
            maximum over all later plans, since a token must be kept if any later plan needs it.

    Raises:
        ConfigError: a model that is not in float32.
        RunError: a label that is not finite; names sample and layer.
    """
    if model.dtype != torch.float32:
        raise ConfigError(f"saliency needs the model in float32, it is in {str(model.dtype).removeprefix('torch.')}")
    tokens = sample.sequence.transcript
    last = max(sample.prompt(call) for call in range(sample.calls))
    place = torch.arange(tokens)
    if kind == "plan-attention":
        seen = plan_attention(model, sample, stages)
        best = later_maximum(seen.paid, [sample.prompt(call) for call in range(sample.calls)], discount)
        # Sinks are always kept, and of extreme saliency, so they teach nothing.
        labels = Labels(best.expand(len(stages), -1), (place >= SINKS) & (place < last), seen.paid, seen.hidden)
    else:
        scores, hidden = gradient_saliency(model, sample, stages, plans_only=kind == "plan-loss")
        end = last if kind == "plan-loss" else tokens
        labels = Labels(scores, (place >= SINKS) & (place < end), torch.empty(0, tokens), hidden)
    for name, values in (("saliency", labels.scores), ("hidden state", labels.hidden)):
        for stage, row in zip(stages, values, strict=True):
            if not bool(torch.isfinite(row).all()):
                raise RunError(f"{sample.sequence.name}: a {name} before layer {stage} is not finite")
    return labels


def gradient_saliency(
    model: Any, sample: Sample, stages: Sequence[int], *, plans_only: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`|h . dL/dh|` `(stages, tokens)` for the input h of each pruning layer, and h `(stages, tokens, hidden_size)`.

    L is the mean negative log-likelihood of the plans' tokens; with `plans_only=False`, of all tokens of the
    transcript.
    """
    sequence = sample.sequence
    rows, wanted = sequence.rows, sequence.labels
    if not plans_only:
        rows, wanted = torch.arange(sequence.transcript - 1), sequence.ids[1 : sequence.transcript]
    with torch.enable_grad(), _graph_from_embeddings(model), layer_inputs(model, stages) as inputs:
        logits = forward_masked(model, sample, rows=rows)
        loss = torch.nn.functional.cross_entropy(logits.float(), wanted.to(logits.device))
        hidden = [inputs[stage] for stage in stages]
        gradients = torch.autograd.grad(loss, hidden)
    pairs = zip(hidden, gradients, strict=True)
    scores = torch.stack([(h.detach() * g).sum(-1)[0].abs() for h, g in pairs])
    states = torch.stack([h.detach()[0] for h in hidden])
    return scores[:, : sequence.transcript].cpu(), states[:, : sequence.transcript].cpu()


def later_maximum(paid: torch.Tensor, prompts: Sequence[int], discount: float) -> torch.Tensor:
    """The largest attention weight that any later call gives each token.

    Args:
        paid: `(calls, tokens)`; 0 where the token is not in a call's history.
        prompts: tokens of each call's history.
        discount: factor for every call between the token and the call.

    Returns:
        `(1, tokens)`.
    """
    if discount < 1.0:
        starts = torch.tensor(prompts)
        between = torch.arange(len(prompts)).unsqueeze(1) - torch.bucketize(
            torch.arange(paid.shape[1]), starts, right=True
        ).unsqueeze(0)
        paid = paid * discount ** between.clamp(min=0)
    return paid.amax(0, keepdim=True)


@contextmanager
def _graph_from_embeddings(model: Any) -> Iterator[None]:
    """Gradients begin at the embeddings: the parameters are frozen, and nothing else would ask for them."""
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: output if output.requires_grad else output.detach().requires_grad_(True)
    )
    try:
        yield
    finally:
        handle.remove()
