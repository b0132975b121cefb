"""The reference of a layer plan: the unchanged model, with the outputs of what is out set to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from erecap.layers.decoder import ATTENTION, MLP, planned_decoder
from erecap.layers.plan import LayerPlan


@contextmanager
def masked(model: nn.Module, plan: LayerPlan) -> Iterator[None]:
    """Within, `model` computes what it would with `plan` and without tuned weights, at the price of the whole model.

    Sublayers give zeros, as do heads before the output projection and channels before the down projection. A search can
    try a plan this way without changing a module.

    Raises:
        ModelError: a model that no plan can be applied to.
    """
    layers = planned_decoder(model).layers
    with ExitStack() as stack:
        for number in (*plan.blocks, *plan.attention):
            _on(stack, getattr(layers[number], ATTENTION).register_forward_hook(_no_output))
        for number in (*plan.blocks, *plan.mlp):
            _on(stack, getattr(layers[number], MLP).register_forward_hook(_no_output))
        for number, heads in plan.heads.items():
            attention = getattr(layers[number], ATTENTION)
            columns = head_columns(heads, attention.head_dim)
            _on(stack, attention.o_proj.register_forward_pre_hook(_without_columns(columns)))
        for number, channels in plan.channels.items():
            down = getattr(layers[number], MLP).down_proj
            _on(stack, down.register_forward_pre_hook(_without_columns(torch.tensor(channels))))
        yield


def head_columns(heads: tuple[int, ...], dim: int) -> torch.Tensor:
    """Columns `(len(heads) * dim,)` of these heads among the inputs of an output projection."""
    return (torch.tensor(heads).unsqueeze(1) * dim + torch.arange(dim)).flatten()


def _on(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


def _no_output(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def _without_columns(columns: torch.Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].index_fill(-1, columns.to(args[0].device), 0), *args[1:])

    return hook
