"""Plan attention: the weight that a plan's tokens give each token of their history, maximum over heads and layers.

The queries are those that produce the plan: the last token of the prompt, which gives the plan's first token, and each
token of the plan. Attention maps are reduced layer by layer as the model runs, so that no more than one block of rows
of one layer is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring import probe
from erecap.training.saliency.forward import forward_masked, layer_inputs, masks_of
from erecap.training.saliency.samples import Sample

ROWS = 64  # query rows looked at together


@dataclass(frozen=True)
class Seen:
    """The results of one forward pass."""

    paid: torch.Tensor  # (calls, tokens) float32: largest weight of a plan for each history token; 0 elsewhere
    asked: torch.Tensor  # (calls, tokens): weights of the prompt's last token, mean over heads and layers
    hidden: torch.Tensor  # (stages, tokens, hidden_size): inputs of the stages


def plan_attention(model: Any, sample: Sample, stages: Sequence[int]) -> Seen:
    """Read a sample once, and look at the attention of its plans.

    Raises:
        ValueError: the model's attention implementation is not `sdpa`.
    """
    look = _Look(model, sample)
    with torch.no_grad(), layer_inputs(model, stages) as inputs, attention_by(model, look):
        forward_masked(model, sample, rows=sample.sequence.rows[-1:], placeholder=True)
    tokens = sample.sequence.transcript
    empty = torch.empty(0, tokens, find_decoder(model).config.hidden_size)
    hidden = torch.stack([inputs[stage][0, :tokens].cpu() for stage in stages]) if stages else empty
    return Seen(look.paid, look.asked / look.layers, hidden)


@contextmanager
def attention_by(model: Any, attend: Any) -> Iterator[None]:
    """`attend(function, module, query, key, value, **kwargs)` takes the place of the model's attention function.

    Raises:
        ValueError: the model's attention implementation is not `sdpa`.
    """
    config = find_decoder(model).config
    name = getattr(config, "_attn_implementation", None)
    if name != "sdpa":
        raise ValueError(f"training looks into the attention implementation sdpa, the model has {name!r}")
    probe.install(config)
    probe.current.attend = attend
    try:
        yield
    finally:
        probe.current.attend = None
        probe.remove(config)


class _Look:
    """Attention as usual, and a look at the rows of the plans."""

    def __init__(self, model: Any, sample: Sample) -> None:
        sequence = sample.sequence
        self._windows = layer_windows(find_decoder(model).config)
        self._masks = masks_of(model, sample)
        self._rows = sequence.rows.to(model.device)
        self._visible = {
            window: sequence.visible(window)[0, 0, sequence.rows].to(model.device) for window in self._masks
        }
        self._calls = sequence.calls
        self._first = [int((sequence.calls == call).nonzero()[0]) for call in range(sample.calls)]
        self._tokens = sequence.transcript
        place = torch.arange(self._tokens).unsqueeze(0)
        self._history = place < torch.tensor([[sample.prompt(call)] for call in range(sample.calls)])
        self.paid = torch.zeros(sample.calls, self._tokens)
        self.asked = torch.zeros(sample.calls, self._tokens)
        self.layers = 0

    def __call__(
        self, function: Any, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> Any:
        window = self._windows[module.layer_idx]
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        visible = self._visible[window]
        self.layers += 1
        firsts = torch.tensor(self._first)
        for start in range(0, len(self._rows), ROWS):
            rows = slice(start, start + ROWS)
            shares = _shares(query[0][:, self._rows[rows]], key[0], visible[rows], scaling, kwargs.get("softcap"))
            calls = self._calls[rows]
            most = shares.amax(0)[:, : self._tokens].float().cpu()
            index = calls.unsqueeze(1).expand(-1, self._tokens)
            self.paid.scatter_reduce_(0, index, most * self._history[calls], "amax")
            inside = ((firsts >= start) & (firsts < start + ROWS)).nonzero().squeeze(1)
            mean = shares.mean(0)[:, : self._tokens].float().cpu()
            self.asked[inside] += mean[firsts[inside] - start]
        return function(module, query, key, value, self._masks[window], **kwargs)


def _shares(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, scaling: float, softcap: float | None
) -> torch.Tensor:
    """Attention `(heads, rows, keys)` float32 of `query` `(heads, rows, dim)` to `key` `(kv_heads, keys, dim)`."""
    heads, rows, dim = query.shape
    grouped = query.float().reshape(key.shape[0], -1, dim)  # (kv_heads, groups * rows, dim)
    logits = (grouped @ key.float().transpose(1, 2)).view(heads, rows, -1) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits.masked_fill(~visible, -torch.inf).softmax(-1)
