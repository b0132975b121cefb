"""Folders of pruners, exit predictors and layer plans: found by name, described, compared with a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.errors import ConfigError, ModelError
from erecap.models.folders import candidates
from erecap.models.wheels import sha256
from erecap.untrusted import read_json

if TYPE_CHECKING:
    import torch

CARD = "card.json"


def find_trained(name: str | Path, what: str) -> Path:
    """A folder: a path, or the name of one among the checkpoints, where models lie too.

    Args:
        what: is looked for, for the message.

    Raises:
        ConfigError: there is no such folder.
    """
    places = [Path(name).expanduser(), *candidates(str(name))] if str(name) else []
    found = next((folder for folder in places if folder.is_dir()), None)
    if found is None:
        raise ConfigError(f"{what} {name}: no such folder, and no checkpoint of that name")
    return found


def describe_trained(folder: Path, weights: str) -> dict[str, str]:
    """Name of a folder and hash of the file `weights` in it, for `run.json`.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        return {"name": folder.resolve().name, "hash": f"sha256:{sha256(folder / weights)}"}
    except OSError as error:
        raise ModelError(f"{folder / weights} cannot be read: {error.strerror}") from error


def read_trained_card(folder: Path, wanted: str, what: str, command: str) -> dict[str, Any]:
    """`card.json` of a folder.

    Args:
        wanted: format that the card states.
        what: the folder holds, for messages.
        command: makes such a folder.

    Raises:
        ModelError: missing, damaged, or of another format.
    """
    path = folder / CARD
    try:
        card = read_json(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; `{command}` makes such a folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("format") != wanted:
        raise ModelError(f"{path}: not the card of {what} ({wanted})")
    return card


def check_base(folder: Path, what: str, card: Mapping[str, Any], base: str | None, adapter: str | None) -> None:
    """Compare the model that a card names with the one at hand.

    Args:
        what: was trained, for the message.
        base: fingerprint of the model's folder (`erecap.models.fingerprint`); None: not compared.
        adapter: hash of the adapter that is merged into it.

    Raises:
        ModelError: another one.
    """
    known = card.get("base")
    known = known if isinstance(known, dict) else {}
    if base is not None and (known.get("hash"), known.get("adapter")) != (base, adapter):
        raise ModelError(
            f"{folder}: the {what} was trained for {_words(known.get('hash'), known.get('adapter'))}, "
            f"this model is {_words(base, adapter)}; train one for it"
        )


def check_tensors(path: Path, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the tensors of a file with a module's by name and shape.

    Raises:
        ModelError: one is missing, unknown, of another shape, or not finite.
    """
    shapes = [{key: tuple(tensor.shape) for key, tensor in one.items()} for one in (wanted, tensors)]
    if shapes[0] != shapes[1]:
        wrong = min(key for key in shapes[0] | shapes[1] if shapes[0].get(key) != shapes[1].get(key))
        raise ModelError(f"{path}: tensor {wrong} is missing, unknown, or of another shape than {CARD} says")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ModelError(f"{path}: a weight is not finite")


def _words(base: str | None, adapter: str | None) -> str:
    return f"weights {str(base)[:23]} with " + (f"adapter {adapter[:23]}" if adapter else "no adapter")
