"""Application of a layer plan to a model, and its undo.

Modules and weights are replaced, not written to. So the undo puts the very objects back, bit for bit, and a plan
without slices copies nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers import applied
from erecap.layers.checking import check_outputs, masked_logits
from erecap.layers.decoder import ATTENTION, MLP, configs, planned_decoder
from erecap.layers.identity import check_base
from erecap.layers.journal import Journal
from erecap.layers.memory import WeightBooks, give_back
from erecap.layers.plan import TUNED, Base, LayerPlan
from erecap.layers.removed import REMOVED, RemovedAttention, RemovedMLP
from erecap.layers.slicing import slice_channels, slice_heads
from erecap.models.origins import carry_origin


class AppliedPlan:
    """A plan on a model; also a context manager that undoes it.

    Attributes:
        model, plan: as given to `apply`.
    """

    def __init__(self, model: Any, plan: LayerPlan, undo: Callable[[], None], books: WeightBooks) -> None:
        self.model, self.plan = model, plan
        self._undo: Callable[[], None] | None = undo
        self._freed, self._books = False, books

    def undo(self) -> None:
        """Let the model be as it was, bit for bit. A second time does nothing.

        Raises:
            ModelError: what the plan took out was freed.
        """
        if self._freed:
            raise ModelError("the memory of what the layer plan removed was freed; load the model again")
        if self._undo is not None:
            self._undo()
            self._undo = None

    def free(self) -> int:
        """Free what the plan took out; it cannot be undone afterwards. Returns `freed_bytes`.

        Raises:
            ModelError: the plan was undone.
        """
        if self._undo is None and not self._freed:
            raise ModelError("the layer plan was undone; there is nothing to free")
        self._undo, self._freed = None, True
        give_back(self.model.device)
        return self.freed_bytes

    @property
    def removed_bytes(self) -> int:
        """Bytes of the weights that the plan took out, less those of sliced and tuned weights in their place."""
        return self._books.removed

    @property
    def freed_bytes(self) -> int:
        """As `removed_bytes`, of those that nobody holds any more: a session drops what it packed at its next call."""
        return self._books.freed if self._freed else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._freed:
            self.undo()


def apply(model: Any, plan: LayerPlan, *, base: Base | None = None, check: bool = True) -> AppliedPlan:
    """Change the layers of `model` by `plan`. An error leaves the model as it was.

    Removed sublayers add nothing to the hidden states. Removed blocks leave the list of layers; those behind them get
    new numbers (`layer_idx`), under which caches know them.

    Args:
        model: a causal language model of transformers, in eval mode; between calls.
        plan: for this model.
        base: what the model is, where the caller knows; else its fingerprint is compared with the plan's.
        check: first read a few tokens with the unchanged model, what is out masked, and compare.

    Returns:
        What undoes it.

    Raises:
        ModelError: the plan is for another base, splits a KV group or names what is not there; the model cannot have a
            plan, has one already, or computes something else with it.
    """
    decoder = planned_decoder(model)
    _check_free(model, decoder)
    check_base(model, plan, len(decoder.layers), base)
    journal, books = Journal(), WeightBooks(model)

    def undo() -> None:
        journal.undo()
        applied.forget(decoder)

    try:
        with torch.inference_mode(False), torch.no_grad():
            expected = masked_logits(model, plan) if check else None
            _change(journal, model, decoder, plan)
            if expected is not None:
                check_outputs(model, expected)
            _tune(journal, decoder, plan)
    except BaseException:
        undo()
        raise
    applied.remember(decoder, plan)
    books.close(model)
    return AppliedPlan(model, plan, undo, books)


def with_plan(model: Any, plan: LayerPlan, *, base: Base | None = None, check: bool = True) -> Any:
    """A model with `plan` beside `model`, which stays as it is. Both share all weights that the plan leaves alone.

    Raises:
        ModelError: as `apply`.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    carry_origin(model, twin)
    apply(twin, plan, base=base, check=check).free()
    return twin


def _check_free(model: Any, decoder: Any) -> None:
    if applied.plan_of(model) is not None or any(isinstance(part, REMOVED) for part in decoder.modules()):
        raise ModelError("the model has a layer plan already; undo it first")
    hooks = (hook for layer in decoder.layers for hook in layer._forward_pre_hooks.values())
    if any(getattr(hook, "__module__", "").startswith("erecap.") for hook in hooks):
        raise ModelError("a layer plan is applied between calls, not while tokens are pruned or read")
    if model.training:
        raise ModelError(
            f"{type(model).__name__} is in training mode, in which no layer plan is applied; call its eval()"
        )
    if any(weight.device.type == "meta" for weight in decoder.parameters()):
        raise ModelError(
            f"{type(model).__name__} has weights that are not at hand (meta), so no layer plan can be applied"
        )


def _change(journal: Journal, model: Any, decoder: Any, plan: LayerPlan) -> None:
    """Take out what `plan` names; tuned weights are another step."""
    for number in plan.attention:
        journal.set(decoder.layers[number], ATTENTION, RemovedAttention(number))
    for number in plan.mlp:
        journal.set(decoder.layers[number], MLP, RemovedMLP())
    for number, heads in plan.heads.items():
        slice_heads(journal, getattr(decoder.layers[number], ATTENTION), heads, number)
    for number, channels in plan.channels.items():
        slice_channels(journal, getattr(decoder.layers[number], MLP), channels, number)
    if plan.blocks:
        _drop_blocks(journal, model, decoder, plan)


def _drop_blocks(journal: Journal, model: Any, decoder: Any, plan: LayerPlan) -> None:
    journal.set(decoder, "layers", nn.ModuleList(decoder.layers[number] for number in plan.kept))
    for new, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if "layer_idx" in vars(module):
                journal.set(module, "layer_idx", new)
    for config in configs(model, decoder):
        for name, value in list(vars(config).items()):
            if isinstance(value, (list, tuple)) and len(value) == plan.layers and ("layer" in name or "block" in name):
                journal.set(config, name, type(value)(value[number] for number in plan.kept))
        journal.set(config, "num_hidden_layers", len(plan.kept))


def _tune(journal: Journal, decoder: Any, plan: LayerPlan) -> None:
    places = {old: new for new, old in enumerate(plan.kept)}
    for name, tensor in plan.tuned.items():
        match = TUNED.fullmatch(name)
        assert match is not None, "checked when the plan was made"
        path, _, last = match[2].rpartition(".")
        try:
            owner = decoder.layers[places[int(match[1])]].get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"tuned weight {name}: {error}") from error
        weight = dict(owner.named_parameters(recurse=False)).get(last)
        if weight is None:
            raise ModelError(f"tuned weight {name}: the model has none of that name")
        if weight.shape != tensor.shape:
            raise ModelError(f"tuned weight {name} is {list(tensor.shape)}, the model's is {list(weight.shape)}")
        journal.weight(owner, last, tensor)
