"""Parts of a layer that can be sliced off: KV groups and channels, with the weights that belong to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers.decoder import ATTENTION, MLP


@dataclass(frozen=True)
class HeadShape:
    """Query heads of one attention."""

    heads: int
    groups: int  # KV groups
    dim: int  # width of one head

    def members(self, group: int) -> tuple[int, ...]:
        """Query heads of a KV group."""
        size = self.heads // self.groups
        return tuple(range(group * size, (group + 1) * size))


def out_projection(layer: Any, number: int) -> nn.Linear:
    """The output projection of a layer's attention."""
    return _linear(getattr(getattr(layer, ATTENTION), "o_proj", None), f"heads of layer {number}")


def down_projection(layer: Any, number: int) -> nn.Linear:
    """The down projection of a layer's MLP."""
    return _linear(getattr(getattr(layer, MLP), "down_proj", None), f"channels of layer {number}")


def head_shape(layer: Any, number: int) -> HeadShape:
    """Heads of a layer's attention."""
    attention = getattr(layer, ATTENTION)
    heads = out_projection(layer, number).in_features // int(attention.head_dim)
    return HeadShape(heads, heads // int(attention.num_key_value_groups), int(attention.head_dim))


def value_rows(layer: Any, number: int) -> torch.Tensor:
    """Weights that make the values, `(groups, head_dim, hidden_size)`."""
    shape, attention = head_shape(layer, number), getattr(layer, ATTENTION)
    size = shape.groups * shape.dim
    where = f"heads of layer {number}"
    if hasattr(attention, "qkv_proj"):  # queries, keys and values below each other
        rows = _linear(attention.qkv_proj, where).weight[-size:]
    else:
        rows = _linear(getattr(attention, "v_proj", None), where).weight
    return rows.detach().view(shape.groups, shape.dim, -1)


def up_rows(layer: Any, number: int) -> list[torch.Tensor]:
    """Weights that make the channels: gate and up, each `(channels, hidden_size)`."""
    mlp, where = getattr(layer, MLP), f"channels of layer {number}"
    if hasattr(mlp, "gate_up_proj"):
        return list(_linear(mlp.gate_up_proj, where).weight.detach().chunk(2))
    return [_linear(getattr(mlp, f"{name}_proj", None), where).weight.detach() for name in ("gate", "up")]


def _linear(module: Any, where: str) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        found = "missing" if module is None else type(module).__name__
        raise ModelError(f"{where}: a projection is {found}; only plain linear layers can be sliced")
    return module
