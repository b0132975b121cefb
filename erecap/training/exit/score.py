"""Layers saved on recorded looks, by a predictor under its schedule and by one constant exit layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from erecap.decoding.exits.schedule import Schedule
from erecap.training.exit.collect import Looks

LOOK = 0.15  # a look takes so much of the time of a layer


@dataclass(frozen=True)
class Score:
    """Exits on recorded looks."""

    tokens: int
    saved: float  # share of the layers that right exits leave out, less what wrong exits and looks cost
    exits: float  # share of the tokens that leave early
    right: float | None  # share of these that are the final token; None: none left
    layer: float | None  # mean layer of the exits


def score(found: torch.Tensor, looks: Looks, static: Sequence[int], threshold: float, total: int) -> Score:
    """Exits of a predictor with the two-level schedule, token by token.

    Args:
        found: `(tokens, layers)` probabilities.
        total: layers of the model.
    """
    schedule = Schedule("two-level", looks.layers, static)
    columns = {layer: n for n, layer in enumerate(looks.layers)}
    exits: list[tuple[int, bool]] = []
    seen = 0
    for token in range(len(found)):
        for layer in schedule.layers():
            seen += 1
            if float(found[token, columns[layer]]) >= threshold:
                exits.append((layer, bool(looks.right[token, columns[layer]])))
                schedule.left(layer)
                break
    return _score(exits, seen, len(found), total)


def constant_score(looks: Looks, layer: int, total: int) -> Score:
    """Every token leaves after `layer` layers."""
    column = looks.layers.index(layer)
    exits = [(layer, bool(right)) for right in looks.right[:, column]]
    return _score(exits, len(exits), len(exits), total)


def best_constant(looks: Looks, total: int) -> int:
    """The constant layer that saves most on `looks`."""
    return max(looks.layers, key=lambda layer: constant_score(looks, layer, total).saved)


def _score(exits: Sequence[tuple[int, bool]], seen: int, tokens: int, total: int) -> Score:
    gained = sum(total - layer if right else -layer for layer, right in exits)
    return Score(
        tokens,
        (gained - LOOK * seen) / (total * max(1, tokens)),
        len(exits) / max(1, tokens),
        sum(right for _, right in exits) / len(exits) if exits else None,
        sum(layer for layer, _ in exits) / len(exits) if exits else None,
    )
