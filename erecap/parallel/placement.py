"""Devices of a model's layers, and weights that wait in memory or on disk until their module runs.

accelerate places a model by hooks inside each module's `forward`. A hook moves the inputs to the device that the module
runs on, and brings weights that are offloaded; between passes these lie on the device `meta`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn


def placing_hooks(module: nn.Module) -> list[Any]:
    """The hooks by which accelerate places `module`; empty where it does not."""
    hook = vars(module).get("_hf_hook")
    if hook is None:
        return []
    return [one for one in getattr(hook, "hooks", (hook,)) if hasattr(one, "execution_device")]


def is_placed(model: nn.Module) -> bool:
    """Return True if accelerate places modules of `model`."""
    return any(placing_hooks(module) for module in model.modules())


def running_device(module: nn.Module) -> torch.device:
    """The device that `module` runs on, its weights there or brought there; that of its first weight else."""
    for hook in placing_hooks(module):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    weight = next((tensor for tensor in chain(module.parameters(), module.buffers()) if not tensor.is_meta), None)
    if weight is not None:
        return weight.device
    inner = next((part for part in module.modules() if part is not module and placing_hooks(part)), None)
    if inner is not None:
        return running_device(inner)
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def input_device(model: Any) -> torch.device:
    """The device that token ids are given on."""
    device: torch.device = model.device
    if not is_placed(model):
        return device
    return running_device(model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model)


def running_devices(decoder: Any) -> list[torch.device]:
    """The device that each decoder layer runs on."""
    return [running_device(layer) for layer in decoder.layers]


@dataclass(frozen=True, eq=False)
class Waiting:
    """A weight that a hook brings when its module runs."""

    name: str  # in the model
    weight: torch.Tensor  # on the device meta
    owner: nn.Module  # holds the weight
    source: Mapping[str, Any]  # has its values
    key: str  # of the weight in there


def waiting_weights(model: nn.Module) -> Iterator[Waiting]:
    """The weights that hooks bring when their module runs."""
    for place, module in model.named_modules():
        for hook in placing_hooks(module):
            if not getattr(hook, "offload", False) or hook.weights_map is None:
                continue
            for key, weight in module.named_parameters(recurse=bool(hook.place_submodules)):
                if weight.is_meta:
                    owner = module.get_submodule(key.rpartition(".")[0])
                    yield Waiting(f"{place}.{key}" if place else key, weight, owner, hook.weights_map, key)


def has_values(model: nn.Module) -> bool:
    """Return True if every weight has values: here, or where a hook brings them from."""
    empty = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.is_meta}
    return not empty or empty <= {waiting.name for waiting in waiting_weights(model)}


def waiting_bytes(model: nn.Module) -> int:
    """Bytes of the weights that every forward pass brings to the device where they are used."""
    return sum(waiting.weight.numel() * waiting.weight.element_size() for waiting in waiting_weights(model))


def in_memory(source: Mapping[str, Any], key: str) -> torch.Tensor | None:
    """The tensor that waits in this process's memory; None where it has to be read from a file."""
    found: Any = source
    while hasattr(found, "dataset") and hasattr(found, "prefix"):  # a view of another mapping
        found, key = found.dataset, f"{found.prefix}{key}"
    known = getattr(found, "state_dict", found)
    tensor = known.get(key) if isinstance(known, dict) else None
    return tensor if isinstance(tensor, torch.Tensor) else None
