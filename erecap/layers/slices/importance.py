"""Importance of KV groups and channels: by what they do on calibration text, or by their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers.decoder import planned_decoder
from erecap.layers.slices.parts import HeadShape, down_projection, head_shape, out_projection, up_rows, value_rows
from erecap.layers.slices.streams import Calibration, Ids, inputs_of


@dataclass(frozen=True)
class Importance:
    """Scores by layer, comparable between layers.

    Attributes:
        heads: of KV groups, each `(groups,)`; empty where they were not asked for.
        channels: each `(channels,)`; empty where they were not asked for.
    """

    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    channels: dict[int, torch.Tensor] = field(default_factory=dict)


def weight_importance(model: Any, *, heads: bool, channels: bool) -> Importance:
    """Norm of the weights that make a part times the norm of those that read it, over the mean of the layer."""
    found = Importance()
    for number, layer in enumerate(planned_decoder(model).layers):
        if heads:
            out = _by_group(out_projection(layer, number).weight.detach().float(), head_shape(layer, number))
            makes = value_rows(layer, number).float().norm(dim=(1, 2))
            found.heads[number] = _relative(makes * out.norm(dim=(0, 2)))
        if channels:
            score = down_projection(layer, number).weight.detach().float().norm(dim=0)
            for rows in up_rows(layer, number):
                score = score * rows.float().norm(dim=1)
            found.channels[number] = _relative(score)
    _check(found)
    return found


def measured_importance(
    model: Any, ids: Ids, kind: str, *, heads: bool, channels: bool
) -> tuple[Importance, Calibration]:
    """Importance of parts while the model reads `ids`.

    Args:
        kind: `activation`: mean absolute activation, over the mean of the layer. `output`: root mean square of what a
            part adds to the output of its sublayer, over that of the hidden states before the layer.

    Returns:
        Also the texts on their way through the layers, which were found out in passing.
    """
    layers = planned_decoder(model).layers
    meters: dict[tuple[str, int], _Meter] = {}
    streams = [_Meter(lambda rows: rows.square().sum(-1, keepdim=True)) for _ in layers]

    def watch(stack: ExitStack) -> None:
        for number, layer in enumerate(layers):
            if kind == "output":
                stack.enter_context(inputs_of(layer, streams[number]))
            if heads:
                out, shape = out_projection(layer, number), head_shape(layer, number)
                meters["heads", number] = _Meter(_of_groups(kind, out, shape))
                stack.enter_context(inputs_of(out, meters["heads", number]))
            if channels:
                down = down_projection(layer, number)
                meters["channels", number] = _Meter(_of_channels(kind, down))
                stack.enter_context(inputs_of(down, meters["channels", number]))

    calibration = Calibration(model, ids, watch)
    found = Importance()
    for (part, number), meter in meters.items():
        score = meter.mean()
        score = (score / streams[number].mean()).sqrt() if kind == "output" else _relative(score)
        getattr(found, part)[number] = score
    _check(found)
    return found, calibration


class _Meter:
    """Mean over tokens of a measure of activations.

    Args:
        measure: of rows `(tokens, width)`: `(tokens, parts)`.
    """

    def __init__(self, measure: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._measure = measure
        self._sum: torch.Tensor | None = None
        self._tokens = 0

    def __call__(self, rows: torch.Tensor) -> None:
        total = self._measure(rows.float()).sum(0).cpu().double()  # some accelerators have no float64
        self._sum = total if self._sum is None else self._sum + total
        self._tokens += len(rows)

    def mean(self) -> torch.Tensor:
        """`(parts,)`."""
        assert self._sum is not None, "a calibration has tokens"
        return self._sum / self._tokens


def _of_groups(kind: str, out: nn.Linear, shape: HeadShape) -> Callable[[torch.Tensor], torch.Tensor]:
    if kind == "activation":
        return lambda rows: rows.abs().view(len(rows), shape.groups, -1).mean(-1)
    weight = _by_group(out.weight.detach().float(), shape)
    return lambda rows: torch.einsum("tgi,ogi->tgo", rows.view(len(rows), shape.groups, -1), weight).square().sum(-1)


def _of_channels(kind: str, down: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    if kind == "activation":
        return torch.abs
    size = down.weight.detach().float().square().sum(0)
    return lambda rows: rows.square() * size


def _by_group(weight: torch.Tensor, shape: HeadShape) -> torch.Tensor:
    """Weights of an output projection as `(hidden_size, groups, columns of a group)`."""
    return weight.view(len(weight), shape.groups, -1)


def _relative(score: torch.Tensor) -> torch.Tensor:
    """Scores over their mean; zeros where all are zero."""
    return score / score.mean().clamp_min(torch.finfo(score.dtype).tiny)


def _check(found: Importance) -> None:
    for part in ("heads", "channels"):
        for number, score in getattr(found, part).items():
            if not bool(score.isfinite().all()):
                raise ModelError(f"importance of {part} of layer {number} is not finite")
