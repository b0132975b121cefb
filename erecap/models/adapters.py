"""LoRA adapters beside a base model: found, checked, and merged into its weights.

An adapter is a folder in PEFT's format (`adapter_config.json`, `adapter_model.safetensors`) with a `card.json` that
carries the fingerprint of its base and the hash of its own weights. Merged, a model has the same modules as before, so
everything that reads or decodes with the base works with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.folders import candidates
from erecap.models.hashing import fingerprint
from erecap.models.inspection import first_line, read_header, read_json
from erecap.models.locating import PLAIN_NAME
from erecap.models.wheels import sha256

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "card.json"


def locate_adapter(name: str) -> Path:
    """The folder behind an adapter's name, among the folders of models (`erecap.models.folders`), or a path.

    Raises:
        ModelError: nothing of that name here.
    """
    places = candidates(name) if PLAIN_NAME.fullmatch(name) else []
    path = Path(name).expanduser()
    for folder in (*places, path):
        if folder.is_dir() and name:
            return folder
    raise ModelError(f"no adapter '{name}': it is neither a folder nor one in checkpoints/ or checkpoints/shipped/")


def adapter_with(digest: str) -> Path:
    """The adapter among the checkpoints whose weights have the SHA-256 `digest` (`sha256:...`).

    Raises:
        ModelError: none has.
    """
    for parent in dict.fromkeys(folder.parent for folder in candidates("adapter")):
        for path in sorted(parent.glob(f"*/{WEIGHTS}")):
            if f"sha256:{sha256(path)}" == digest:
                return path.parent
    raise ModelError(f"no adapter with weights {digest[:23]} in checkpoints/ or checkpoints/shipped/")


def describe_adapter(name: str) -> dict[str, str]:
    """Name and hash of an adapter, for `run.json`. Raises ModelError where it is not found or not readable."""
    folder = locate_adapter(name)
    read_header(folder / WEIGHTS)
    return {"name": folder.resolve().name, "hash": f"sha256:{sha256(folder / WEIGHTS)}"}


def check_adapter(folder: Path, base: Path) -> dict[str, Any]:
    """Refuse an adapter that is damaged or was not trained on the model in `base`.

    Returns:
        Its parsed `card.json`.

    Raises:
        ModelError: a file is missing or damaged, the weights are not those of the card, the base is another one.
    """
    card, config = read_json(folder / CARD), read_json(folder / CONFIG)
    weights = folder / WEIGHTS
    read_header(weights)
    stated, base_card = card.get("files"), card.get("base")
    if config.get("peft_type") != "LORA" or not isinstance(stated, dict) or not isinstance(base_card, dict):
        raise ModelError(f"{folder}: not an adapter that `erecap train planner` made: its card or its kind differs")
    if stated.get(WEIGHTS) != sha256(weights):
        raise ModelError(f"{weights} is damaged: its SHA-256 is not the one in {CARD}")
    found = fingerprint(base)
    if base_card.get("fingerprint") != found:
        raise ModelError(
            f"adapter {folder.name} was trained on {base_card.get('name')} with weights "
            f"{str(base_card.get('fingerprint'))[:23]}, but {base.name} has {found[:23]}; use that base"
        )
    return card


def attach_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """A PEFT model around `model` with the adapter's weights in it, in float32.

    Raises:
        ModelError: its tensors do not fit the model (names the first), or are not finite.
    """
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        with warnings.catch_warnings(action="ignore"):  # about names of bases and other modules' attributes
            wrapped = get_peft_model(model, config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / CONFIG} does not fit the model: {first_line(error)}") from error
    expected = get_peft_model_state_dict(wrapped)
    for name in sorted(expected.keys() | tensors.keys()):
        here = list(tensors[name].shape) if name in tensors else "nothing"
        there = list(expected[name].shape) if name in expected else "nothing"
        if here != there:
            raise ModelError(f"{folder / WEIGHTS} does not fit the model: {name} is {here}, expected {there}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ModelError(f"{folder / WEIGHTS}: {name} holds values that are not finite")
    set_peft_model_state_dict(wrapped, {name: tensor.float() for name, tensor in tensors.items()})
    return wrapped


def merge_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter added to its weights, without any trace of PEFT. Raises as `attach_adapter`."""
    merged = attach_adapter(model, folder).merge_and_unload()
    # Left behind, it would make `save_pretrained` write an adapter.
    merged.__dict__.pop("peft_config", None)
    return merged.eval().requires_grad_(False)
