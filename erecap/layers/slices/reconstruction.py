"""Reconstruction of a slice: the output projections of its sublayers, fitted to what the whole sublayers gave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from erecap.layers.decoder import ATTENTION, MLP, planned_decoder
from erecap.layers.journal import Journal
from erecap.layers.plan import LayerPlan
from erecap.layers.slices.fitting import Fit
from erecap.layers.slices.parts import down_projection, out_projection
from erecap.layers.slices.settings import SliceSettings
from erecap.layers.slices.streams import Calibration, inputs_of, outputs_of
from erecap.layers.slicing import slice_channels, slice_heads


@dataclass(frozen=True)
class Reconstruction:
    """Fitted weights by name, and the share of the wanted outputs that is missed, its mean over sublayers."""

    weights: dict[str, torch.Tensor]
    before: float
    after: float


def reconstruct(
    model: Any, plan: LayerPlan, calibration: Calibration, settings: SliceSettings, say: Callable[[str], None]
) -> Reconstruction:
    """Fit each sliced sublayer to what it gave as a whole, one after the other.

    Every layer reads what the sliced and fitted layers before it give, so that later fits see the errors that earlier
    ones left. The model is changed meanwhile, and left as it was.
    """
    weights: dict[str, torch.Tensor] = {}
    missed: list[tuple[float, float]] = []
    hidden = calibration.hidden
    journal = Journal()
    last = max((*plan.heads, *plan.channels))
    try:
        with torch.inference_mode(False), torch.no_grad():
            for number, layer in enumerate(planned_decoder(model).layers[: last + 1]):
                whole = _outputs(layer, number, hidden, calibration, plan)
                for part, wanted in whole.items():
                    name, module = _cut(journal, layer, number, part, plan)
                    fit = _fit(layer, number, hidden, calibration, module, wanted)
                    before = module.weight.detach()
                    after = fit.solve(before, settings.reconstruct, settings.damping)
                    missed.append((fit.missed(before), fit.missed(after)))
                    say(f"layer {number}, {part}: {missed[-1][0]:.1%} missed, {missed[-1][1]:.1%} after the fit")
                    journal.weight(module, "weight", after)
                    weights[f"layers.{number}.{name}.weight"] = module.weight.detach()
                if number < last:
                    hidden = calibration.run(layer, number, hidden)
    finally:
        journal.undo()
    before_all, after_all = (sum(values) / len(missed) for values in zip(*missed, strict=True))
    return Reconstruction(weights, before_all, after_all)


def _outputs(
    layer: nn.Module, number: int, hidden: list[torch.Tensor], calibration: Calibration, plan: LayerPlan
) -> dict[str, list[torch.Tensor]]:
    """Outputs of the sliced sublayers of a layer that is still whole, in the order in which they run."""
    found: dict[str, list[torch.Tensor]] = {}
    handles = []
    for part, slices, projection in (
        ("heads", plan.heads, out_projection),
        ("channels", plan.channels, down_projection),
    ):
        if number in slices:
            found[part] = []
            handles.append(outputs_of(projection(layer, number), found[part].append))
    if found:
        with ExitStack() as stack:
            for handle in handles:
                stack.enter_context(handle)
            calibration.run(layer, number, hidden)
    return found


def _cut(journal: Journal, layer: Any, number: int, part: str, plan: LayerPlan) -> tuple[str, nn.Linear]:
    """Slice one sublayer; the name and module of its output projection."""
    if part == "heads":
        slice_heads(journal, getattr(layer, ATTENTION), plan.heads[number], number)
        return f"{ATTENTION}.o_proj", out_projection(layer, number)
    slice_channels(journal, getattr(layer, MLP), plan.channels[number], number)
    return f"{MLP}.down_proj", down_projection(layer, number)


def _fit(
    layer: nn.Module,
    number: int,
    hidden: list[torch.Tensor],
    calibration: Calibration,
    module: nn.Linear,
    wanted: list[torch.Tensor],
) -> Fit:
    """Inputs of a sliced projection beside the outputs that the whole one gave.

    Every token counts by what it misses over the size of its hidden state, as the next norm will see it. Else a few
    tokens with huge activations, such as the first of a text, would decide.
    """
    fit = Fit(module.in_features, module.out_features, module.weight.device)
    rows = iter(wanted)
    sizes = iter([1 / states.float().flatten(0, 1).norm(dim=-1, keepdim=True).clamp_min(1e-6) for states in hidden])
    bias = 0 if module.bias is None else module.bias.detach().float()

    def take(inputs: torch.Tensor) -> None:
        share = next(sizes)
        fit.add(inputs.float() * share, (next(rows).float() - bias) * share)

    with inputs_of(module, take):
        calibration.run(layer, number, hidden)
    return fit
