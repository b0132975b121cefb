"""Revival of dropped tokens: from the layer where they stopped, through the remaining layers, into the cache.

A revived token attends, in each layer, to what that layer stores now up to its own index, other revived tokens
among it. What was read before does not see it, what is read afterwards does. So the model is the masked one of
`PrunedCache`, with these tokens' rows of the deeper layers computed late.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from erecap.errors import RunError
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.masks import as_attention_mask, layer_windows
from erecap.tokens.cache.parking import Parked
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.ropes import angles, layer_type
from erecap.tokens.hooks import cache_argument, find_decoder
from erecap.tokens.scoring import probe


def revive(model: nn.Module, cache: PrunedCache, span: tuple[int, int] | None = None) -> int:
    """Bring parked tokens back into all layers of `cache`. Works with and without the pruning hooks on the model.

    Until all layers have run, nothing changes: the keys and values of the deeper layers exist twice meanwhile.

    Args:
        model: the model that read the tokens.
        cache: a cache of one row whose `PruneConfig.park_tokens` is above 0.
        span: token indices `(start, end)` in everything read; None: all that is parked.

    Returns:
        Tokens revived: those parked within the span. Tokens that were dropped and are not parked (any more) stay
        dropped.

    Raises:
        RunError: in the middle of a read, or an attention implementation that takes no mask of this kind.
        FloatingPointError: a layer gave a hidden state that is not finite.
    """
    start, end = span if span is not None else (0, cache.get_seq_length())
    waking = cache.parking.within(start, end)
    if not waking:
        return 0
    if cache.reading is not None:
        raise RunError("tokens cannot be revived in the middle of a read")
    decoder: Any = find_decoder(model)
    implementation = probe.base_name(decoder.config._attn_implementation)
    if implementation not in ("sdpa", "eager"):
        raise RunError(
            f"reviving tokens needs a mask that {implementation} does not take; "
            "load the model with attn_implementation='sdpa' or 'eager'"
        )
    windows = layer_windows(decoder.config)
    joining = _Joining(cache)
    last_position = max(int(layout.positions.max()) for layout in cache.layouts() if layout.width)
    live: Parked | None = None
    with torch.no_grad():
        for number in range(waking[0].layer, cache.layer_count):
            if waking and waking[0].layer == number:
                newcomers = waking.pop(0)
                live = newcomers if live is None else live.joined(_to(newcomers, live.hidden.device))
            assert live is not None
            if cache.read_scores is not None and number == cache.read_scores.layer:
                cache.read_scores.take(live.tokens, live.hidden)
            # A layer without attention stores nothing; what its mask would be does not matter then.
            stores = cache.stores(number)
            live = _to(live, cache.layers[number].device if stores else live.hidden.device)
            stored = joining.expect(number, cache.layout(number), live.tokens) if stores else live.tokens
            allowed = _visible(stored, live.tokens, windows[number])
            output = decoder.layers[number](
                live.hidden,
                attention_mask=as_attention_mask(
                    allowed, implementation, stored, live.tokens, windows[number], live.hidden.dtype
                ),
                position_embeddings=_rope(decoder, number, live, last_position),
                position_ids=None,
                use_cache=True,
                **{cache_argument(decoder.layers[number]): joining},
            )
            hidden = output[0] if isinstance(output, tuple) else output
            if not bool(torch.isfinite(hidden).all()):
                raise FloatingPointError(f"reviving gave a hidden state that is not finite after layer {number}")
            live = Parked(number + 1, live.tokens, hidden)
    assert live is not None
    joining.commit()
    cache.parking.keep(lambda parked: (parked.places < start) | (parked.places >= end))
    return live.tokens.width


class _Joining:
    """A stand-in for the cache during revival: stored keys with the new ones merged in order of token indices."""

    def __init__(self, cache: PrunedCache) -> None:
        self._cache = cache
        self._memo: dict[tuple[int, int], tuple[Layout, Layout, Layout, torch.Tensor]] = {}
        self._expected: dict[int, tuple[Layout, torch.Tensor]] = {}
        self._parts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def expect(self, layer: int, before: Layout, live: Layout) -> Layout:
        """Merge `before`, the layout of `layer`, with `live`. Layers that store the same share the result."""
        key = (id(before), id(live))
        if key not in self._memo:
            # The parents are kept beside the result: an id is only unique while its object lives.
            self._memo[key] = (before, live, *before.merged(live))
        self._expected[layer] = self._memo[key][2:]
        return self._expected[layer][0]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `(1, kv_heads, live tokens, head_dim)` joined with the stored ones, by token index."""
        order = self._expected[layer_idx][1]
        self._parts[layer_idx] = self._cache.layers[layer_idx].merged(key_states, value_states, order)
        return self._parts[layer_idx]

    def commit(self) -> None:
        """Store all merged keys and values in the cache."""
        for layer, (keys, values) in self._parts.items():
            self._cache.replace(layer, keys, values, self._expected[layer][0])


def _visible(stored: Layout, live: Layout, window: int | None) -> torch.Tensor:
    """`(1, 1, live, stored)` bool: indices up to one's own, within the window, which counts positions."""
    allowed = stored.index.unsqueeze(1) <= live.index.unsqueeze(2)
    if window is not None:
        allowed = allowed & (stored.positions.unsqueeze(1) > live.positions.unsqueeze(2) - window)
    return (allowed & stored.valid.unsqueeze(1)).unsqueeze(1)


def _rope(decoder: Any, layer: int, live: Parked, last_position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `(1, n, dim)` of the tokens' positions, from the rotary embedding of `layer`."""
    # Ropes that depend on the length (long-rope) look at the highest position; it goes along, and is cut off again.
    positions = torch.cat([live.tokens.positions, live.tokens.positions.new_tensor([[last_position]])], 1)
    cos, sin = angles(decoder.rotary_emb, live.hidden, positions, layer_type(decoder.config, layer))
    return cos[:, :-1], sin[:, :-1]


def _to(parked: Parked, device: torch.device) -> Parked:
    if parked.hidden.device == device:
        return parked
    return Parked(parked.layer, parked.tokens.to(device), parked.hidden.to(device))
