"""2:4 sparsity: two of every four weights along a row are zero, in a form that some devices multiply faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers.decoder import planned_decoder
from erecap.layers.slices.streams import Calibration, Ids, inputs_of

GROUP, KEPT = 4, 2
CAPABILITY = (8, 0)  # of CUDA devices whose matrix units skip the zeros


def two_four_mask(scores: torch.Tensor) -> torch.Tensor:
    """True for the two highest scores of every four, `(outputs, inputs)`; among equal ones the first."""
    groups = scores.view(scores.shape[0], -1, GROUP)
    best = groups.argsort(dim=-1, descending=True, stable=True)[..., :KEPT]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True).view(scores.shape)


def is_two_four(weight: torch.Tensor) -> bool:
    """True if at most two of every four weights along each row are not zero."""
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        return False
    return bool((weight.view(len(weight), -1, GROUP) != 0).sum(-1).le(KEPT).all())


def two_four_weights(model: Any, kind: str, ids: Ids) -> dict[str, torch.Tensor]:
    """The weights of all projections of the decoder layers, two of every four of them zero.

    Args:
        model: as its weights are to be masked: with its slices.
        kind: `magnitude`: the largest stay. `activation`: the largest products of a weight and the norm of its input.
        ids: calibration texts, for `activation`.

    Raises:
        ModelError: a projection whose inputs are no multiple of four, or no projections.
    """
    projections = dict(_projections(model))
    if not projections:
        raise ModelError(f"{type(model).__name__}: no plain linear layers of which two of four weights could go")
    for name, module in projections.items():
        if module.in_features % GROUP:
            raise ModelError(f"{name} has {module.in_features} inputs; 2:4 sparsity needs a multiple of {GROUP}")
    norms = _input_norms(model, projections, ids) if kind == "activation" else {}
    found = {}
    for name, module in projections.items():
        weight = module.weight.detach()
        scores = weight.abs().float()
        found[name] = weight * two_four_mask(scores * norms[name] if name in norms else scores)
        assert is_two_four(found[name]), "the mask keeps two of four"
    return found


def packing_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Reason why 2:4 weights are not multiplied faster on `device`; None: they can be packed."""
    if device.type != "cuda":
        return f"{device.type} has no 2:4 kernels; a CUDA device of compute capability 8.0 or above has"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"a device of compute capability {found[0]}.{found[1]} has no 2:4 kernels; they begin with 8.0"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"weights in {str(dtype).removeprefix('torch.')} are not packed; use float16 or bfloat16"
    return None


def pack(model: Any) -> int:
    """Pack the 2:4 weights of a model for the device that it is on. Its fused decoder steps aside from then on.

    Returns:
        How many weights were packed.

    Raises:
        ModelError: the device has no kernels for them, there are none, or their shapes do not fit the kernels.
    """
    problem = packing_problem(model.device, model.dtype)
    if problem is not None:
        raise ModelError(f"2:4 weights get nothing faster here: {problem}")
    sparse = {name: module for name, module in _projections(model) if is_two_four(module.weight.detach())}
    if not sparse:
        raise ModelError("2:4 weights: the model has none; make a plan with --two-four")
    from torch.sparse import to_sparse_semi_structured

    packed = {}
    for name, module in sparse.items():  # all before any is replaced
        try:
            packed[name] = to_sparse_semi_structured(module.weight.detach())
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            raise ModelError(f"2:4 weights: {name} {list(module.weight.shape)} cannot be packed ({line})") from error
    for name, module in sparse.items():
        module.weight = nn.Parameter(packed[name], requires_grad=False)
    return len(packed)


def _projections(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Projections of the sublayers by name, as plans name tuned weights."""
    for number, layer in enumerate(planned_decoder(model).layers):
        for name, module in layer.named_modules():
            if type(module) is nn.Linear and name.startswith(("self_attn.", "mlp.")):
                yield f"layers.{number}.{name}.weight", module


def _input_norms(model: Any, projections: dict[str, nn.Linear], ids: Ids) -> dict[str, torch.Tensor]:
    """Norm of each input of each projection over the calibration texts, `(inputs,)`."""
    squares = {name: torch.zeros(module.in_features, dtype=torch.float64) for name, module in projections.items()}

    def watch(stack: ExitStack) -> None:
        for name, module in projections.items():
            take = lambda rows, name=name: squares[name].add_(rows.float().square().sum(0).cpu())  # noqa: E731
            stack.enter_context(inputs_of(module, take))

    Calibration(model, ids, watch)
    return {name: found.sqrt().float().to(projections[name].weight.device) for name, found in squares.items()}
