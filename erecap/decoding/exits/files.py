"""A trained exit predictor on disk: `exits.safetensors`, and `card.json` with its origin and its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from erecap.decoding.exits.predictor import ExitPredictor, TrainedExits
from erecap.errors import ModelError
from erecap.files import write_atomic, write_json
from erecap.models.trained_folder import (
    CARD,
    check_base,
    check_tensors,
    describe_trained,
    find_trained,
    read_trained_card,
)
from erecap.untrusted import read_tensors

FORMAT = "erecap-exits-1"
WEIGHTS = "exits.safetensors"
SMALL = "small"  # the tensor of the small vocabulary
STATED = ("layers", "hidden_size", "vocabulary", "known", "static", "threshold", "base")  # fields that a card must have


def save_exits(folder: Path, trained: TrainedExits, card: dict[str, Any]) -> None:
    """Write weights and card into `folder`.

    Args:
        card: `layers`, `hidden_size`, `vocabulary`, `base` (`name`, `hash`, `adapter`, `plan`) and `test`, which
            `load_exits` checks, and any other facts, as plain JSON.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.predictor.state_dict().items()}
    write_atomic(folder / WEIGHTS, save({**tensors, SMALL: trained.small.cpu()}, metadata={"format": FORMAT}))
    known = {"known": list(trained.predictor.layers), "static": list(trained.static), "threshold": trained.threshold}
    write_json(folder / CARD, {"format": FORMAT, **known, **card})


def find_exits(name: str | Path) -> Path:
    """The folder of a predictor: a path, or the name of one among the checkpoints.

    Raises:
        ConfigError: there is no such folder.
    """
    return find_trained(name, "exit predictor")


def describe_exits(name: str | Path) -> dict[str, str]:
    """Name and hash of a predictor's weights. Raises ModelError or ConfigError where they cannot be read."""
    return describe_trained(find_exits(name), WEIGHTS)


def read_card(folder: Path) -> dict[str, Any]:
    """`card.json` of a predictor's folder. Raises ModelError where it is missing or damaged."""
    card = read_trained_card(folder, FORMAT, "an exit predictor", "erecap train exit")
    missing = next((field for field in STATED if field not in card), None)
    if missing is not None:
        raise ModelError(f"{folder / CARD}: damaged, {missing} is missing")
    return card


def beats_constant(card: dict[str, Any]) -> bool:
    """Return True if a card's test shows that the predictor saves more layers than the best constant exit, and any."""
    test = card.get("test") or {}
    try:
        return float(test["predictor"]["saved"]) > max(0.0, float(test["constant"]["saved"]))
    except (KeyError, TypeError, ValueError):
        return False


def load_exits(
    name: str | Path,
    *,
    layers: int,
    hidden_size: int,
    vocabulary: int,
    plan: str | None = None,
    base: str | None = None,
    adapter: str | None = None,
    allow_untested: bool = False,
) -> TrainedExits:
    """Load a trained predictor for a model.

    Args:
        layers, hidden_size, vocabulary: of the model, with its layer plan.
        plan: digest of the layer plan that is applied to it.
        base, adapter: fingerprint of the model's folder and hash of its adapter; None as `base`: not compared.
        allow_untested: also load one whose card does not show that it beats a constant exit.

    Raises:
        ConfigError: no such folder.
        ModelError: made for another model, damaged, or untested.
    """
    folder = find_exits(name)
    card = read_card(folder)
    for field, value in (("layers", layers), ("hidden_size", hidden_size), ("vocabulary", vocabulary)):
        if card[field] != value:
            raise ModelError(
                f"{folder}: the exit predictor is for a model with {field} {card[field]}, this one has {value}"
            )
    known = card["base"] if isinstance(card["base"], dict) else {}
    if known.get("plan") != plan:
        raise ModelError(f"{folder}: the exit predictor was trained with another layer plan; train one for this plan")
    check_base(folder, "exit predictor", card, base, adapter)
    if not allow_untested and not beats_constant(card):
        raise ModelError(
            f"{folder}: its card shows no test in which it beats a constant exit layer; train it on more text"
        )
    return _read(folder, card, layers, vocabulary)


def _read(folder: Path, card: dict[str, Any], layers: int, vocabulary: int) -> TrainedExits:
    path = folder / WEIGHTS
    tensors, _ = read_tensors(path)
    numbers = [*_numbers(card["known"]), *_numbers(card["static"])]
    if not card["known"] or not card["static"] or not all(0 < n < layers for n in numbers):
        raise ModelError(f"{folder / CARD}: known and static must name layers from 1 to {layers - 1}")
    threshold = card["threshold"]
    if type(threshold) not in (int, float) or not 0.0 <= threshold <= 1.0:
        raise ModelError(f"{folder / CARD}: threshold is {threshold!r}; allowed: 0 to 1")
    predictor = ExitPredictor(card["known"])
    small = tensors.pop(SMALL, torch.empty(0))
    check_tensors(path, tensors, predictor.state_dict())
    if (
        small.dtype != torch.long
        or small.ndim != 1
        or not len(small)
        or not bool(((0 <= small) & (small < vocabulary)).all())
    ):
        raise ModelError(f"{path}: the small vocabulary is not a list of the model's tokens")
    predictor.load_state_dict(tensors)
    return TrainedExits(predictor.eval().requires_grad_(False), tuple(card["static"]), float(threshold), small)


def _numbers(value: Any) -> list[int]:
    return [n if type(n) is int else -1 for n in value] if isinstance(value, list) else [-1]
