"""The parts that a slice takes out: the least important KV groups and channels."""

from __future__ import annotations

from typing import Any

from erecap.layers.decoder import planned_decoder
from erecap.layers.plan import LayerPlan
from erecap.layers.slices.choosing import blocks_of, choose
from erecap.layers.slices.importance import Importance
from erecap.layers.slices.parts import head_shape
from erecap.layers.slices.settings import SliceSettings


def chosen(model: Any, found: Importance, settings: SliceSettings) -> LayerPlan:
    """The plan that takes out the least important parts; no weight is fitted.

    Raises:
        ConfigError: shares that no part fits, or more than can go.
    """
    layers = planned_decoder(model).layers
    heads: dict[int, tuple[int, ...]] = {}
    channels: dict[int, tuple[int, ...]] = {}
    if settings.heads:
        order = {number: score.argsort(stable=True) for number, score in found.heads.items()}
        costs = {number: score[order[number]].tolist() for number, score in found.heads.items()}
        sizes = {number: [1] * len(own) for number, own in costs.items()}
        for number, lost in choose(costs, sizes, settings.heads, settings.spread, "heads", "KV groups").items():
            shape = head_shape(layers[number], number)
            gone = order[number][:lost].tolist()
            heads[number] = tuple(head for group in gone for head in shape.members(group))
    if settings.channels:
        order = {number: score.argsort(stable=True) for number, score in found.channels.items()}
        sizes = {number: blocks_of(len(score), settings.multiple) for number, score in found.channels.items()}
        costs = {
            number: [float(block.mean()) for block in score[order[number]].split(sizes[number])]
            for number, score in found.channels.items()
        }
        for number, lost in choose(costs, sizes, settings.channels, settings.spread, "channels", "channels").items():
            channels[number] = tuple(order[number][: sum(sizes[number][:lost])].tolist())
    return LayerPlan(len(layers), heads=heads, channels=channels)
