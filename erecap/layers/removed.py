"""Modules that stand where a sublayer was: they add nothing to the hidden states, and hold no weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from erecap.models.cache_argument import given_cache

# Caches of transformers count the tokens of a sequence by what some layer of theirs stores; ours count by themselves.
COUNTING = "transformers.cache_utils"


class RemovedAttention(nn.Module):
    """A removed attention: zeros. It stores no keys; a stock cache gets one number a token, so that it can count.

    Args:
        layer_idx: number of its layer, under which caches know it.
    """

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """Zeros of the shape of `hidden_states` `(batch, tokens, hidden_size)`, and no attention weights."""
        cache = given_cache(kwargs)
        if cache is not None and counts_by_layers(cache):
            mark = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            cache.update(mark, mark, self.layer_idx)
        return hidden_states.new_zeros(()).expand_as(hidden_states), None


class RemovedMLP(nn.Module):
    """A removed MLP: zeros."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Zeros of the shape of `hidden_states` `(batch, tokens, hidden_size)`."""
        return hidden_states.new_zeros(()).expand_as(hidden_states)


REMOVED = (RemovedAttention, RemovedMLP)


def counts_by_layers(cache: Any) -> bool:
    """Return True for a cache as transformers ships it."""
    return type(cache).__module__ == COUNTING


def attends(layer: nn.Module) -> bool:
    """Return True if a decoder layer has its attention, and so stores keys and values."""
    return not isinstance(getattr(layer, "self_attn", None), RemovedAttention)
