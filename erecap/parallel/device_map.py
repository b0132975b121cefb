"""Device maps: where the parts of a model lie, as a word, as ranges of layers, or part by part in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.errors import ConfigError

if TYPE_CHECKING:
    import torch

WORDS = ("auto", "balanced", "sequential")
DISK = "disk"
FORMS = "auto, balanced, sequential, ranges of layers such as cuda:0=0-15,cpu=16-29, or a JSON file {part: device}"
_RANGE = re.compile(r"(?P<device>[a-z]+(:\d+)?)=(?P<first>\d+)(-(?P<last>\d+))?")

Ranges = list[tuple[str, int, int]]  # device, first and last layer


def parse_device_map(text: str | Mapping[str, str | int]) -> str | Ranges | dict[str, str]:
    """Read what a user gave: one of `WORDS`, ranges of layers by device, a mapping of parts to devices, or its file.

    Raises:
        ConfigError: it is none of these, or a file that cannot be read.
    """
    if not isinstance(text, str):
        return _by_parts(text, "")
    if text in WORDS:
        return text
    pieces = [_RANGE.fullmatch(piece.strip()) for piece in text.split(",")]
    if all(pieces):
        return [
            (found["device"], int(found["first"]), int(found["last"] or found["first"])) for found in pieces if found
        ]
    if not text.endswith(".json"):
        raise ConfigError(f"device_map: got {text!r}; allowed: {FORMS}")
    try:
        known = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"device_map: {text} cannot be read: {str(error).splitlines()[0]}") from error
    return _by_parts(known, f" {text}:")


def _by_parts(known: Any, where: str) -> dict[str, str]:
    parts = isinstance(known, Mapping) and known and all(isinstance(part, str) for part in known)
    if not parts or not all(isinstance(device, (str, int)) for device in known.values()):
        raise ConfigError(f"device_map:{where} got {str(known)[:40]}; allowed: {{part: device}}, or {FORMS}")
    return {part: f"cuda:{device}" if isinstance(device, int) else device for part, device in known.items()}


def resolve_device_map(model: Any, text: str | Mapping[str, str | int], dtype: torch.dtype) -> dict[str, str]:
    """The device of each part of `model`, by the names that accelerate takes.

    Args:
        model: the model, or one of its class without weights.
        text: see `parse_device_map`.
        dtype: of the weights, which decides how many fit where.

    Raises:
        ConfigError: a device that is not there, a map that misses a layer or another part, or names one twice, or one
            that parts tied weights.
    """
    meant = parse_device_map(text)
    if isinstance(meant, str):
        found = _automatic(model, meant, dtype)
    else:
        found = meant if isinstance(meant, dict) else _by_layers(model, meant)
    for device in dict.fromkeys(found.values()):
        check_device(device)
    _check_covers(model, found)
    _check_tied(model, found)
    return _apart(model, found)


def check_device(name: str) -> None:
    """Refuse a device that torch does not know or that this machine lacks.

    Raises:
        ConfigError: names it, and what is there.
    """
    import torch

    if name in ("cpu", DISK):
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device_map: device '{name}' is not known; allowed: cuda:N, cpu, disk") from error
    count = torch.cuda.device_count()
    if device.type != "cuda" or (device.index or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}, cpu, disk" if count else "cpu, disk (there is no CUDA device)"
        raise ConfigError(f"device_map: device '{name}' is not on this machine; allowed: {there}")


def layers_of(model: Any) -> tuple[str, int]:
    """The name of the list of decoder layers within `model`, and their number.

    Raises:
        ConfigError: there is none.
    """
    from torch import nn

    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers and name.rsplit(".", 1)[-1] in ("layers", "h"):
            return name, layers
    raise ConfigError(f"device_map: {type(model).__name__} has no list of decoder layers")


def _by_layers(model: Any, ranges: Ranges) -> dict[str, str]:
    name, layers = layers_of(model)
    devices: dict[int, str] = {}
    for device, first, last in ranges:
        if last < first:
            raise ConfigError(f"device_map: got {device}={first}-{last}; allowed: ranges that rise")
        for number in range(first, last + 1):
            if number >= layers or number in devices:
                why = "each layer lies on one device; " if number < layers else ""
                raise ConfigError(
                    f"device_map: got layer {number} on {device}; {why}the model has layers 0 to {layers - 1}"
                )
            devices[number] = device
    missing = [number for number in range(layers) if number not in devices]
    if missing:
        raise ConfigError(f"device_map: layer {missing[0]} is on no device; the model has layers 0 to {layers - 1}")
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    found: dict[str, str] = {}
    behind = False
    for part in _parts(model, name):
        if part == name:
            found |= {f"{name}.{number}": device for number, device in sorted(devices.items())}
            behind = True
            continue
        head = behind and not (tied and part == "lm_head")  # tied weights lie with the embedding
        found[part] = devices[layers - 1] if head and "rotary" not in part else devices[0]
    return found


def _parts(model: Any, layers: str) -> list[str]:
    """The largest modules that do not hold the list of layers, and that list, in order."""
    found: list[str] = []

    def walk(module: Any, place: str) -> None:
        for name, child in module.named_children():
            whole = f"{place}.{name}" if place else name
            if layers.startswith(f"{whole}."):
                walk(child, whole)
            else:
                found.append(whole)

    walk(model, "")
    return found


def _automatic(model: Any, word: str, dtype: torch.dtype) -> dict[str, str]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    model.tie_weights()
    memory = (
        get_max_memory()
        if word == "sequential"
        else get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole)
    )
    inferred = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole, dtype=dtype)
    found = {part: f"cuda:{device}" if isinstance(device, int) else str(device) for part, device in inferred.items()}
    return found if "" not in found else dict.fromkeys([name for name, _ in model.named_children()], found[""])


def _apart(model: Any, found: Mapping[str, str]) -> dict[str, str]:
    """The same places with no part within another, which is how weights are put there."""
    from torch import nn

    places: dict[str, str] = {}

    def place(name: str, module: Any, device: str | None) -> None:
        device = found.get(name, device)
        if not any(part != name and _within(part, name) for part in found):
            if device is not None:
                places[name] = device
            return
        held = [*module.named_children(), *module.named_parameters(recurse=False)]
        for part, child in held:
            whole = f"{name}.{part}" if name else part
            if isinstance(child, nn.Module):
                place(whole, child, device)
            elif device is not None:
                places[whole] = device

    place("", model, None)
    return places


def _check_covers(model: Any, found: Mapping[str, str]) -> None:
    modules = dict(model.named_modules())
    unknown = next((part for part in found if part and part not in modules), None)
    if unknown is not None:
        raise ConfigError(f"device_map: {type(model).__name__} has no part {unknown!r}; its parts: {_some(model)}")
    for name, _ in model.named_parameters():
        if not any(_within(name, part) for part in found):
            raise ConfigError(f"device_map: {name} is on no device; every part needs one, or '' for the rest")


def _check_tied(model: Any, found: Mapping[str, str]) -> None:
    if not getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False):
        return
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [next((name for name, module in model.named_modules() if module is end), None) for end in ends]
    places = [name and next(found[part] for part in _longest_first(found) if _within(name, part)) for name in names]
    if None not in places and places[0] != places[1]:
        raise ConfigError(
            f"device_map: {names[1]} is on {places[1]}, {names[0]} on {places[0]}; they share their weights, so both "
            "lie on one device"
        )


def _longest_first(found: Mapping[str, str]) -> list[str]:
    return sorted(found, key=len, reverse=True)


def _within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _some(model: Any) -> str:
    name, layers = layers_of(model)
    return ", ".join(f"{part}.0 to .{layers - 1}" if part == name else part for part in _parts(model, name))
