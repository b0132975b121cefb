"""LoRA adapters beside a base model: found, checked, and merged into its weights.

An adapter is a folder in PEFT's format (`adapter_config.json`, `adapter_model.safetensors`). The `card.json` that
training writes beside it carries the fingerprint of its base and the hashes of its own files; adapters of others have
none. Merged, a model has the same modules as before, so everything that reads or decodes with the base works with it.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.adapter_settings import check_settings
from erecap.models.finiteness import FAILURES, read_tokens
from erecap.models.folders import candidates
from erecap.models.hashing import fingerprint
from erecap.models.inspection import first_line, read_header, read_json
from erecap.models.locating import PLAIN_NAME
from erecap.models.settings_files import changed_files
from erecap.models.wheels import sha256

_log = logging.getLogger(__name__)
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
    known = sorted({path.parent.name for folder in candidates("any") for path in folder.parent.glob(f"*/{CONFIG}")})
    raise ModelError(
        f"no adapter '{name}': it is neither a folder nor one in checkpoints/ or checkpoints/shipped/; there are "
        f"{', '.join(known) or 'none'}"
    )


def adapter_with(digest: str, *, beside: Path | None = None) -> Path:
    """The adapter among the checkpoints whose weights have the SHA-256 `digest` (`sha256:...`).

    Args:
        beside: an adapter's folder; the folders beside it are looked at first.

    Raises:
        ModelError: none has.
    """
    near = [] if beside is None else [beside.resolve().parent]
    for parent in dict.fromkeys([*near, *(folder.parent for folder in candidates("adapter"))]):
        for path in sorted(parent.glob(f"*/{WEIGHTS}")):
            if f"sha256:{sha256(path)}" == digest:
                return path.parent
    where = "" if beside is None else f"beside {beside}, "
    raise ModelError(f"no adapter with weights {digest[:23]} {where or 'in '}checkpoints/ or checkpoints/shipped/")


def describe_adapter(name: str) -> dict[str, str]:
    """Name and hash of an adapter, for `run.json`. Raises ModelError where it is not found or not readable."""
    folder = locate_adapter(name)
    read_header(folder / WEIGHTS)
    return {"name": folder.resolve().name, "hash": f"sha256:{sha256(folder / WEIGHTS)}"}


def check_adapter(folder: Path, base: Path) -> dict[str, Any] | None:
    """Refuse an adapter that is damaged or was not trained on the model in `base`.

    Returns:
        Its parsed `card.json`; None where it has none, as PEFT saves adapters. Its base is then not checked, beyond the
        shapes of its tensors, and a warning says so.

    Raises:
        ModelError: a file is missing or damaged, files are not those of the card, the base is another one.
    """
    config = read_json(folder / CONFIG)
    weights = folder / WEIGHTS
    read_header(weights)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: not an adapter of a kind that can be merged: {config.get('peft_type')}, not LORA")
    check_settings(config, folder / CONFIG)
    if not (folder / CARD).is_file():
        named = config.get("base_model_name_or_path")
        _log.warning(
            "adapter %s has no %s: no hash of its base was checked; it names %r as its base, and is used with %s",
            folder.name, CARD, named, base.name,
        )  # fmt: skip
        return None
    card = read_json(folder / CARD)
    stated, base_card = card.get("files"), card.get("base")
    if not isinstance(stated, dict) or not isinstance(base_card, dict) or WEIGHTS not in stated:
        raise ModelError(f"{folder}: its {CARD} is not one that `erecap train planner` wrote")
    for file in (WEIGHTS, CONFIG):  # older cards name the weights only
        if file in stated and stated[file] != sha256(folder / file):
            raise ModelError(f"{folder / file} is damaged: its SHA-256 is not the one in {CARD}")
    found = fingerprint(base)
    if base_card.get("fingerprint") != found:
        raise ModelError(
            f"adapter {folder.name} was trained on {base_card.get('name')} with weights "
            f"{str(base_card.get('fingerprint'))[:23]}, but {base.name} has {found[:23]}; use that base"
        )
    other = changed_files(base_card.get("settings") or {}, base)
    if other:
        _log.warning(
            "adapter %s was trained with another %s of %s", folder.name, " and ".join(other), base_card.get("name")
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
    except (*FAILURES, ArithmeticError, ImportError, re.error) as error:
        raise ModelError(f"{folder / CONFIG} does not fit the model: {first_line(error)}") from error
    _check_scaling(wrapped, folder)
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
    """`model` with the adapter added to its weights, without any trace of PEFT.

    Weights that several modules share, and of which the adapter changes one, are parted before.

    Raises:
        ModelError: as `attach_adapter`; sums that pass the range of the weights' number format; or an adapter that does
            something else beside the weights than merged into them.
    """
    import warnings

    wrapped = attach_adapter(model, folder).eval()
    beside = read_tokens(wrapped, folder)
    _part_shared(wrapped)
    try:
        with warnings.catch_warnings(action="ignore"):  # about shared weights, which are parted
            merged = wrapped.merge_and_unload()
    except FAILURES as error:
        raise ModelError(f"{folder}: cannot be merged into the weights: {first_line(error)}") from error
    # Left behind, it would make `save_pretrained` write an adapter.
    merged.__dict__.pop("peft_config", None)
    _forget_ties(merged)
    for name, weight in merged.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{folder}: with it, {name} holds values that are not finite in {weight.dtype}")
    apart = (read_tokens(merged, folder) - beside).abs().amax(-1) / beside.abs().amax(-1).clamp(min=1e-30)
    if not float(apart.median()) <= (1e-3 if str(merged.dtype) in ("torch.float32", "torch.float64") else 0.1):
        raise ModelError(
            f"{folder}: merged into the weights it computes other logits than beside them (they differ by "
            f"{float(apart.median()):.2g}), so {CONFIG} asks for something that cannot be merged"
        )
    return merged.eval().requires_grad_(False)


def _part_shared(wrapped: Any) -> None:
    """Give modules that an adapter changes weights of their own, where they share them with other modules."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name for name, module in wrapped.named_modules() if isinstance(module, BaseTunerLayer)}
    owners: dict[int, list[tuple[Any, str, bool]]] = {}
    for path, module in wrapped.named_modules(remove_duplicate=False):
        inside = path in adapted or path.rpartition(".")[0] in adapted
        for name, weight in module.named_parameters(recurse=False):
            if not name.startswith("lora_"):
                owners.setdefault(id(weight), []).append((module, name, inside))
    for group in owners.values():
        if len(group) > 1 and any(inside for *_, inside in group):
            for module, name, _ in group[1:]:
                weight = getattr(module, name)
                setattr(module, name, torch.nn.Parameter(weight.detach().clone(), weight.requires_grad))


def _forget_ties(model: Any) -> None:
    """Bring the model's own list of tied weights up to date, by which it is saved and hashed."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    weights = dict(model.named_parameters(remove_duplicate=False))
    parted = [name for name, other in ties.items() if name in weights and weights[name] is not weights.get(other)]
    for name in parted:
        del ties[name]
    if parted:
        model.config.tie_word_embeddings = False


def _check_scaling(wrapped: Any, folder: Path) -> None:
    """Refuse factors that are not finite: `lora_alpha` over a rank, or patterns of either for single modules."""
    for name, module in wrapped.named_modules():
        for factor in (getattr(module, "scaling", None) or {}).values() if hasattr(module, "lora_A") else ():
            if not math.isfinite(factor):
                raise ModelError(f"{folder / CONFIG}: the scaling of {name} is {factor}, which is not finite")
