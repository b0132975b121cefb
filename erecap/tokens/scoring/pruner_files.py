"""A trained pruner on disk: `pruner.safetensors`, and `card.json` with its origin and its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

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
from erecap.tokens.scoring.learned import Pruner
from erecap.untrusted import read_tensors

FORMAT = "erecap-pruner-2"
WEIGHTS = "pruner.safetensors"


def save_pruner(folder: Path, pruner: Pruner, card: dict[str, Any]) -> None:
    """Write the weights and the card of `pruner` into `folder`.

    Args:
        card: what `load_pruner` checks, `base` and `test`, and any other facts, as plain JSON.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in pruner.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": FORMAT}))
    shape = {
        "format": FORMAT,
        "hidden_size": pruner.hidden_size,
        "stages": list(pruner.stages),
        "session_stage": pruner.session_stage,
        "age_weight": round(float(pruner.age_weight), 6),  # for reading; what counts is among the weights
    }
    write_json(folder / CARD, shape | card)


def find_pruner(name: str | Path, what: str = "pruner") -> Path:
    """The folder of a pruner: a path, or the name of one among the checkpoints, where models lie too.

    Args:
        what: is looked for, for the message.

    Raises:
        ConfigError: there is no such folder.
    """
    return find_trained(name, what)


def read_card(folder: Path) -> dict[str, Any]:
    """`card.json` of a pruner's folder. Raises ModelError where it is missing or damaged."""
    return read_trained_card(folder, FORMAT, "a pruner", "erecap train pruner")


def describe_pruner(name: str | Path) -> dict[str, str]:
    """Name and hash of a pruner's weights, for `run.json`. Raises ModelError where they cannot be read."""
    return describe_trained(find_pruner(name), WEIGHTS)


def beats_random(card: dict[str, Any]) -> bool:
    """Return True if a card's test shows plans nearer to the unpruned ones than those of `random` at equal budget.

    Nearer is a lower KL divergence: it tells two pruners apart long before the most probable token does.
    """
    rankers = (card.get("test") or {}).get("rankers") or {}
    try:
        return float(rankers["learned"]["kl"]) < float(rankers["random"]["kl"])
    except (KeyError, TypeError, ValueError):
        return False


def load_pruner(
    name: str | Path,
    *,
    hidden_size: int,
    layers: int,
    base: str | None = None,
    adapter: str | None = None,
    allow_untested: bool = False,
) -> Pruner:
    """Load a trained pruner for a model.

    Args:
        name: a folder, or the name of a checkpoint.
        hidden_size, layers: of the model.
        base: fingerprint of the model's folder (`erecap.models.fingerprint`); None: not compared.
        adapter: fingerprint of the adapter that was merged into the model, if one was; compared with `base`.
        allow_untested: also load one whose card does not show that it beats `random` at the same budget.

    Raises:
        ConfigError: no such folder.
        ModelError: made for another model or hidden size, damaged, or untested.
    """
    folder = find_pruner(name)
    card = read_card(folder)
    path = folder / WEIGHTS
    if card.get("hidden_size") != hidden_size:
        raise ModelError(
            f"{folder}: the pruner was trained for hidden size {card.get('hidden_size')}, this model has {hidden_size}"
        )
    check_base(folder, "pruner", card, base, adapter)
    if not allow_untested and not beats_random(card):
        raise ModelError(
            f"{folder}: its card shows no test in which it beats random at the same budget; "
            "use it all the same with allow_untested_pruner: true"
        )
    tensors, _ = read_tensors(path)
    try:
        pruner = Pruner(hidden_size, card["stages"], card["session_stage"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / CARD}: stages or session_stage are damaged: {error}") from error
    if pruner.stages[-1] >= layers:
        raise ModelError(f"{folder}: the pruner scores layer {pruner.stages[-1]}, this model has {layers} layers")
    check_tensors(path, tensors, pruner.state_dict())
    pruner.load_state_dict(tensors)
    return pruner.eval().requires_grad_(False)
