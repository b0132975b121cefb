"""The masked oracle: the unmodified model over all tokens at once, with one mask per layer.

Key j is visible to query i in layer l iff j <= i, j lies in the layer's window, and (l, j) was stored when i was
read. Rows of dropped tokens see only themselves; nobody sees those rows.
"""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.hooks import find_decoder


def oracle_logits(
    model: PreTrainedModel, ids: torch.Tensor, attention_mask: torch.Tensor, cache: PrunedCache
) -> torch.Tensor:
    """Logits `(batch, tokens, vocab)` of the stock forward under the per-layer masks that `cache` recorded.

    Tokens after the pruned prompt count as stored in every layer, which holds when they were decoded unarmed.
    """
    batch, tokens = ids.shape
    decoder = find_decoder(model)
    windows = layer_windows(decoder.config)
    masks = []
    place = torch.arange(tokens)
    for layer in range(len(decoder.layers)):
        layout = cache.layout(layer)
        stored = torch.zeros(batch, tokens, dtype=torch.bool)
        for row in range(batch):
            stored[row, layout.index[row][layout.valid[row]]] = True
        allowed = (place[None, :] <= place[:, None])[None] & stored[:, None, :] & stored[:, :, None]
        if windows[layer] is not None:
            allowed &= (place[None, :] > place[:, None] - windows[layer])[None]
        allowed |= torch.eye(tokens, dtype=torch.bool)[None]
        bias = torch.zeros(batch, 1, tokens, tokens).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
        masks.append(bias)

    def replace(number: int):  # type: ignore[no-untyped-def]
        names = list(inspect.signature(decoder.layers[number].forward).parameters)[1:]
        return lambda module, args, kwargs: (
            args[:1],
            kwargs | dict(zip(names, args[1:], strict=False)) | {"attention_mask": masks[number]},
        )

    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    handles = [
        layer.register_forward_pre_hook(replace(number), with_kwargs=True)
        for number, layer in enumerate(decoder.layers)
    ]
    try:
        with torch.no_grad():
            return model(ids, attention_mask=attention_mask, position_ids=positions, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
