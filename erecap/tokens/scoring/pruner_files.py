"""A trained pruner on disk: `pruner.safetensors`, and `card.json` with its origin and its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from erecap.errors import ConfigError, ModelError
from erecap.files import write_atomic, write_json
from erecap.models.folders import candidates
from erecap.models.wheels import sha256
from erecap.tokens.scoring.learned import Pruner
from erecap.untrusted import read_json

FORMAT = "erecap-pruner-2"
WEIGHTS = "pruner.safetensors"
CARD = "card.json"


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
    path = Path(name).expanduser()
    places = [path, *candidates(str(name))] if str(name) else []
    found = [folder for folder in places if folder.is_dir()]
    if not found:
        raise ConfigError(f"{what} {name}: no such folder, and no checkpoint of that name")
    return found[0]


def read_card(folder: Path) -> dict[str, Any]:
    """`card.json` of a pruner's folder.

    Raises:
        ModelError: missing or damaged.
    """
    path = folder / CARD
    try:
        card = read_json(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; `erecap train pruner` makes such a folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ModelError(f"{path}: not the card of a pruner ({FORMAT})")
    return card


def describe_pruner(name: str | Path) -> dict[str, str]:
    """Name and hash of a pruner's weights, for `run.json`. Raises ModelError where they cannot be read."""
    folder = find_pruner(name)
    try:
        return {"name": folder.resolve().name, "hash": f"sha256:{sha256(folder / WEIGHTS)}"}
    except OSError as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error.strerror}") from error


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
    known = card.get("base") or {}
    if base is not None and (known.get("hash"), known.get("adapter")) != (base, adapter):
        raise ModelError(
            f"{folder}: the pruner was trained for {_words(known.get('hash'), known.get('adapter'))}, "
            f"this model is {_words(base, adapter)}; train one for it"
        )
    if not allow_untested and not beats_random(card):
        raise ModelError(
            f"{folder}: its card shows no test in which it beats random at the same budget; "
            "use it all the same with allow_untested_pruner: true"
        )
    try:
        pruner = Pruner(hidden_size, card["stages"], card["session_stage"])
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / CARD}: stages or session_stage are damaged: {error}") from error
    if pruner.stages[-1] >= layers:
        raise ModelError(f"{folder}: the pruner scores layer {pruner.stages[-1]}, this model has {layers} layers")
    wanted = {key: tuple(tensor.shape) for key, tensor in pruner.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
        raise ModelError(f"{path}: tensor {wrong[0]} is missing, unknown, or of another shape than {CARD} says")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ModelError(f"{path}: a weight is not finite")
    pruner.load_state_dict(tensors)
    return pruner.eval().requires_grad_(False)


def _words(base: str | None, adapter: str | None) -> str:
    return f"weights {str(base)[:23]} with " + (f"adapter {adapter[:23]}" if adapter else "no adapter")
