"""The state of a training in one safetensors file, so that what belongs together is replaced together.

Tensors: `weights/NAME`, `best/NAME`, and AdamW's `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`. The rest is JSON in
the header. The learning rate, the order of the data and the random numbers follow from the step, and need no state.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from erecap.errors import RunError
from erecap.models.inspection import first_line
from erecap.untrusted import parse_json

STATE = "state.safetensors"
_FORMAT = "erecap-training-1"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_state(
    folder: Path,
    facts: dict[str, Any],
    weights: dict[str, torch.Tensor],
    best: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write `folder/state.safetensors` aside, then put it in the place of the old one.

    Args:
        folder: of the training.
        facts: JSON values: step, settings, scores.
        weights: the trainable tensors, as they are on their device.
        best: copies of them at the best evaluation; may be empty.
        optimizer: AdamW over `weights`, in their order.
    """
    from safetensors.torch import save_file

    tensors = {f"weights/{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    tensors |= {f"best/{name}": tensor.contiguous() for name, tensor in best.items()}
    for name, tensor in weights.items():
        moments = optimizer.state.get(tensor, {})
        tensors |= {f"{key}/{name}": moments[key].cpu().contiguous() for key in _MOMENTS if key in moments}
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{STATE}.part"
    save_file(tensors, aside, {"erecap": json.dumps({"format": _FORMAT, **facts}, allow_nan=False)})
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, folder / STATE)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The JSON part of a checkpoint; None where there is none.

    Raises:
        RunError: the file is damaged, or of another kind.
    """
    return _open(folder)[0] if (folder / STATE).exists() else None


def restore(
    folder: Path, weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Put a checkpoint into the trainable tensors and the optimizer; returns the best weights.

    Raises:
        RunError: the file is damaged, or its tensors are not those of this training.
    """
    tensors = _open(folder)[1]
    best: dict[str, torch.Tensor] = {}
    try:
        for name, tensor in weights.items():
            with torch.no_grad():
                tensor.copy_(tensors[f"weights/{name}"])
            if f"exp_avg/{name}" in tensors:
                # AdamW keeps its count of steps on the CPU, and the moments where the tensor is.
                optimizer.state[tensor] = {
                    key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else tensor.device) for key in _MOMENTS
                }
            if f"best/{name}" in tensors:
                best[name] = tensors[f"best/{name}"]
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{folder / STATE} is not a checkpoint of this training: {first_line(error)}") from error
    return best


def _open(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    try:
        with safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {})["erecap"])
            if facts["format"] != _FORMAT:
                raise KeyError(facts["format"])
            return facts, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{path} is damaged or no checkpoint of a training ({first_line(error)}); --fresh starts anew"
        ) from error
