"""Layer plans for the tiny models, and what they mean, written down without the code under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from erecap.layers import LayerPlan
from tests.tokens.models import LAYERS, tiny

# The tiny models have 8 layers, 4 query heads in 2 KV groups, and 48 channels.
PLANS = {
    "attention": LayerPlan(LAYERS, attention=(0, 3)),
    "mlp": LayerPlan(LAYERS, mlp=(1, LAYERS - 1)),
    "blocks": LayerPlan(LAYERS, blocks=(0, 4, 5)),
    "heads": LayerPlan(LAYERS, heads={1: (0, 1), 6: (2, 3)}),
    "channels": LayerPlan(LAYERS, channels={2: (0, 5, 47), 5: tuple(range(24))}),
    "all": LayerPlan(
        LAYERS, blocks=(2,), attention=(0, LAYERS - 1), mlp=(3,), heads={4: (2, 3)}, channels={0: (1, 2), 6: (40,)}
    ),
}


def own(name: str = "llama", attention: str = "sdpa") -> Any:
    """A tiny model that a test may change."""
    return deepcopy(tiny(name, attention))


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@contextmanager
def identities(model: Any, plan: LayerPlan) -> Iterator[None]:
    """Within, the parts that `plan` names add nothing: outputs of sublayers, inputs of projections are set to zero."""
    handles = []
    for number, layer in enumerate(model.get_decoder().layers):
        if number in plan.attention + plan.blocks:
            handles.append(layer.self_attn.register_forward_hook(lambda m, a, out: (out[0] * 0, *out[1:])))
        if number in plan.mlp + plan.blocks:
            handles.append(layer.mlp.register_forward_hook(lambda m, a, out: out * 0))
        if number in plan.heads:
            kept = torch.ones(layer.self_attn.o_proj.in_features)
            for head in plan.heads[number]:
                kept[head * layer.self_attn.head_dim : (head + 1) * layer.self_attn.head_dim] = 0
            handles.append(layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a, kept=kept: (a[0] * kept,)))
        if number in plan.channels:
            kept = torch.ones(layer.mlp.down_proj.in_features)
            kept[list(plan.channels[number])] = 0
            handles.append(layer.mlp.down_proj.register_forward_pre_hook(lambda m, a, kept=kept: (a[0] * kept,)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """Logits `(1, tokens, vocab)`."""
    with torch.no_grad():
        return model(ids, **options).logits


def expected_logits(name: str, plan: LayerPlan, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the whole model with `plan`'s parts as identities."""
    with identities(tiny(name), plan):
        return logits(tiny(name), ids, use_cache=False)
