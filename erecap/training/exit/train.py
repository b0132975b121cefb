"""Fit the networks of an exit predictor, its static schedule and its threshold."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from erecap.decoding.exits.predictor import ExitPredictor
from erecap.errors import RunError
from erecap.training.exit.collect import Looks
from erecap.training.exit.score import Score, score
from erecap.training.exit.settings import ExitTraining

BATCH = 256
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
COVERED, MOST_STATIC = 0.8, 6  # share of the exits that the static layers cover, and how many these are at most


def fit_predictor(
    looks: Looks, settings: ExitTraining, say: Callable[[str], None] = lambda line: None
) -> ExitPredictor:
    """One network a layer, with binary cross-entropy on whether the best candidate is the final token.

    Raises:
        RunError: a loss that is not finite.
    """
    torch.manual_seed(settings.seed)
    predictor = ExitPredictor(looks.layers)
    last = 0.0
    for column, layer in enumerate(looks.layers):
        inputs, targets = looks.features[:, column], looks.right[:, column].float()
        mean, deviation = inputs.mean(0), inputs.std(0, unbiased=False).clamp_min(1e-3)
        network = predictor.networks[str(layer)]
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
        scaled = (inputs - mean) / deviation
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + layer)
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(scaled), generator=generator).split(BATCH):
                loss = F.binary_cross_entropy_with_logits(network(scaled[rows])[:, 0], targets[rows])
                last = float(loss.detach())
                if not torch.isfinite(loss):
                    raise RunError(f"the loss of layer {layer} is {last}: stopped; a lower --lr may help")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        _take_raw_features(network, mean, deviation)
        say(f"layer {layer}: right {100 * float(targets.mean()):.0f} %, loss {last:.3f}")
    return predictor.eval().requires_grad_(False)


def _take_raw_features(network: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Put the scaling of the features into the first layer of `network`."""
    first = network[0]  # type: ignore[index]
    with torch.no_grad():
        first.weight.div_(deviation)
        first.bias.sub_(first.weight @ mean)


def probabilities(predictor: ExitPredictor, looks: Looks) -> torch.Tensor:
    """`(tokens, layers)`: the predictor's probability that the best candidate is final."""
    return torch.stack([predictor(layer, looks.features[:, n]) for n, layer in enumerate(looks.layers)], 1)


def static_layers(looks: Looks, sure: torch.Tensor) -> tuple[int, ...]:
    """The layers where most tokens leave first, rightly: as many as cover most of these exits.

    Args:
        sure: `(tokens, layers)` bool: where the predictor would let a token go.
    """
    leaves = sure & looks.right
    first = leaves & (leaves.cumsum(1) == 1)
    counts = first.sum(0)
    order = counts.argsort(descending=True, stable=True).tolist()
    chosen: list[int] = []
    covered = 0
    for column in order:
        if chosen and (covered >= COVERED * int(counts.sum()) or len(chosen) == MOST_STATIC):
            break
        chosen.append(looks.layers[column])
        covered += int(counts[column])
    return tuple(sorted(chosen))


def fit_schedule(predictor: ExitPredictor, looks: Looks, total: int) -> tuple[tuple[int, ...], float, Score]:
    """Static layers and threshold with which exits save most on `looks`, and how much; `total` layers of the model."""
    found = probabilities(predictor, looks)
    best: tuple[tuple[int, ...], float, Score] | None = None
    for threshold in THRESHOLDS:
        static = static_layers(looks, found >= threshold)
        result = score(found, looks, static, threshold, total)
        if best is None or result.saved > best[2].saved:
            best = static, threshold, result
    assert best is not None, "there are thresholds"
    return best
