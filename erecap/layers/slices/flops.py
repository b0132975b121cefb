"""FLOPs and bytes of a model with or without a layer plan, counted from the modules that are left.

One multiplication and one addition count as two FLOPs, as in `erecap.cost.flops`, whose shapes have one width for all
layers; a sliced model has many. Linear layers, attention and the language-model head count.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from erecap.layers.decoder import ATTENTION, planned_decoder
from erecap.layers.removed import attends


class ModelFlops:
    """FLOPs of forward passes of a model as it is now.

    Args:
        model: whose decoder has layers of an attention and an MLP. Every linear layer runs for every token.
    """

    def __init__(self, model: Any) -> None:
        layers = planned_decoder(model).layers
        self._token = sum(
            2 * module.in_features * module.out_features
            for layer in layers
            for module in layer.modules()
            if isinstance(module, nn.Linear)
        )
        attentions = [getattr(layer, ATTENTION) for layer in layers if attends(layer)]
        # Query heads times their width: the inputs of the output projection.
        self._heads = sum(attention.o_proj.in_features for attention in attentions)
        self._stored = sum(2 * one.o_proj.in_features // int(one.num_key_value_groups) for one in attentions)
        self._head = 2 * int(model.get_output_embeddings().weight.numel())
        self._size = model.dtype.itemsize

    def prefill(self, tokens: int) -> int:
        """Reading `tokens` tokens on an empty cache, with the logits of the last one."""
        return self._token * tokens + self.prefill_attention(tokens) + self._head

    def prefill_attention(self, tokens: int) -> int:
        """Attention alone of the same prefill: queries by keys, weights by values."""
        return self._pairs(tokens * (tokens + 1) // 2)

    def decode(self, stored: int, tokens: int) -> int:
        """Decoding `tokens` tokens, one after the other, on `stored` stored ones."""
        met = tokens * stored + tokens * (tokens + 1) // 2
        return (self._token + self._head) * tokens + self._pairs(met)

    def decode_bytes(self, stored: int) -> int:
        """Bytes that decoding one token on `stored` ones reads: weights of layers and head, keys and values."""
        return self._size * ((self._token + self._head) // 2 + self._stored * stored)

    def _pairs(self, pairs: int) -> int:
        """Attention of `pairs` queries with a key."""
        return 2 * 2 * self._heads * pairs
