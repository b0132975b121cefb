"""State of a search: the dense model, the model as the steps so far leave it, and what the work has cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from erecap.errors import ConfigError, ModelError
from erecap.layers.applied import plan_of
from erecap.layers.decoder import planned_decoder
from erecap.layers.plan import TUNED, LayerPlan
from erecap.layers.search.latencies import Latencies
from erecap.layers.search.options import SearchOptions
from erecap.layers.search.steps import Step, Sublayer, plan_of_steps, removed_by, sublayers_of
from erecap.layers.search.streams import Streams, remove, shared_copy

Ids = Sequence[Sequence[int]]


class Search:
    """A search for sublayers to remove. A method reads it and yields steps; `add` carries them out.

    The model stays as it is: steps change a copy that has modules of its own on the same weights.

    Args:
        model: a causal language model of transformers, in eval mode, without a layer plan.
        ids: calibration sequences, all of one length.
        options, seed: of the method.
        latencies: by phase (`decode`, `prefill`).

    Raises:
        ModelError: a model that cannot have a layer plan.
        ConfigError: no sequences, sequences of several lengths, or too long ones.
    """

    def __init__(
        self,
        model: Any,
        ids: Ids,
        latencies: dict[str, Latencies],
        options: SearchOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.options, self.seed, self.latencies = options or SearchOptions(), seed, latencies
        decoder = planned_decoder(model)
        if plan_of(model) is not None:
            raise ModelError("the model has a layer plan already; a search starts from the whole model")
        if model.training:
            raise ModelError(f"{type(model).__name__} is in training mode; call its eval()")
        if model.device.type == "mps":
            raise ModelError("a search computes in float64, which the device mps has not; use --device cpu")
        lengths = sorted({len(row) for row in ids})
        window = getattr(decoder.config, "max_position_embeddings", None) or lengths[-1:]
        if len(lengths) != 1 or lengths[0] < 2 or (isinstance(window, int) and lengths[0] > window):
            raise ConfigError(
                f"calibration: got sequences of {lengths[:3] or 'no'} tokens; allowed: one length, of 2 tokens or more "
                "within the model's window"
            )
        self.model, self.ids, self.layers = model, [list(row) for row in ids], len(decoder.layers)
        self.steps: list[Step] = []
        self.evaluations = 0
        self._counted, self._uncounted = True, 0
        self.changed: nn.ModuleList = planned_decoder(self.thin).layers

    @cached_property
    def thin(self) -> Any:
        """The model as the steps so far leave it; its layers keep their numbers."""
        return shared_copy(self.model)

    @cached_property
    def streams(self) -> Streams:
        """The calibration sequences that are read, for the layers of both models."""
        with torch.no_grad():
            return Streams(self.model, self.ids[: self.options.loss_sequences or None], self.options.batch_tokens)

    @property
    def dense(self) -> nn.ModuleList:
        """Layers of the whole model."""
        return self.streams.layers

    @property
    def latency(self) -> Latencies:
        """Latencies of the phase that counts.

        Raises:
            ConfigError: none were measured.
        """
        if self.options.phase not in self.latencies:
            raise ConfigError(f"the search needs latencies of {self.options.phase}, and none were measured")
        return self.latencies[self.options.phase]

    def live(self) -> list[Sublayer]:
        """Sublayers that are left, in order."""
        out = set(removed_by(self.steps))
        return [sublayer for sublayer in sublayers_of(self.layers) if sublayer not in out]

    def removable(self) -> list[Sublayer]:
        """Sublayers that can go: all that are left, but not the last attention."""
        live = self.live()
        attentions = [sublayer for sublayer in live if sublayer.kind == "attention"]
        return [sublayer for sublayer in live if len(attentions) > 1 or sublayer.kind != "attention"]

    def blocks(self) -> list[tuple[Sublayer, ...]]:
        """Blocks that can go, each with what is left of it: not the one with the last attention."""
        live = self.live()
        attentions = sum(sublayer.kind == "attention" for sublayer in live)
        found = []
        for layer in range(self.layers):
            parts = tuple(sublayer for sublayer in live if sublayer.layer == layer)
            if parts and attentions - sum(part.kind == "attention" for part in parts) >= 1:
                found.append(parts)
        return found

    def add(self, step: Step) -> None:
        """Carry a step out: remove its sublayers, bring in its tuned weights.

        Raises:
            ValueError: it removes what is out already, or does not fit the model.
        """
        live = self.live()
        if not step.removed or not set(step.removed) <= set(live):
            raise ValueError(f"a step removes {', '.join(map(str, step.removed)) or 'nothing'}, which is not there")
        plan_of_steps(self.layers, [*self.steps, step])
        for sublayer in step.removed:
            remove(self.changed, sublayer)
        for name, tensor in step.tuned.items():
            set_weight(self.changed, name, tensor)
        self.steps.append(step)

    def plan(self, **about: Any) -> LayerPlan:
        """The plan of the steps so far."""
        return plan_of_steps(self.layers, self.steps, **about)

    def count(self, evaluations: int) -> None:
        """Count changes that were judged on the calibration text."""
        self.evaluations += evaluations if self._counted else 0

    @property
    def work(self) -> int:
        """Work that counts, in weights times tokens; 0 before anything was run."""
        return self.streams.work - self._uncounted if "streams" in vars(self) else 0

    @property
    def passes(self) -> float:
        """The work, in passes of the whole model over all of the calibration text."""
        return self.passes_of(self.work)

    def passes_of(self, work: int) -> float:
        """Work that was counted, in passes of the whole model over all of the calibration text."""
        if not work:
            return 0.0  # a method that reads no text has no streams
        read = sum(len(batch.ids) for batch in self.streams.batches)
        return work * read / (self.streams.whole * len(self.ids))

    @contextmanager
    def uncounted(self, really: bool = True) -> Iterator[None]:
        """Within, work does not count: it was counted in an earlier run of the same search."""
        before, counted = self.streams.work, self._counted
        self._counted = counted and not really
        try:
            yield
        finally:
            self._counted = counted
            if really and counted:
                self._uncounted += self.streams.work - before


def set_weight(layers: nn.ModuleList, name: str, tensor: torch.Tensor) -> None:
    """Let weight `layers.N....` be `tensor`, as a parameter of its own.

    Raises:
        ValueError: the model has no such weight, or one of another shape.
    """
    match = TUNED.fullmatch(name)
    path, _, last = (match[2] if match else "").rpartition(".")
    try:
        owner = layers[int(match[1]) if match else 0].get_submodule(path)
        old = dict(owner.named_parameters(recurse=False))[last]
    except (AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"tuned weight {name}: the model has none of that name") from error
    if old.shape != tensor.shape:
        raise ValueError(f"tuned weight {name} is {list(tensor.shape)}, the model's is {list(old.shape)}")
    new = tensor.to(device=old.device, dtype=old.dtype).detach().contiguous()
    setattr(owner, last, nn.Parameter(new, requires_grad=old.requires_grad))
