"""Hidden states of a model over calibration sequences, run layer by layer from wherever they are known."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from erecap.errors import ModelError
from erecap.layers.decoder import ATTENTION, MLP, planned_decoder
from erecap.layers.removed import REMOVED, RemovedAttention, RemovedMLP
from erecap.layers.search.steps import Sublayer
from erecap.models.origins import carry_origin

HEAD_SEQUENCES = 2  # whose logits are computed at a time: a vocabulary is wide
ATTRIBUTES = {"attention": ATTENTION, "mlp": MLP}


@dataclass(frozen=True)
class Batch:
    """Some calibration sequences, as the first layer gets them."""

    ids: torch.Tensor  # (sequences, tokens)
    stream: torch.Tensor  # (sequences, tokens, hidden_size): the input of layer 0
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]  # other arguments of each layer


class _Stop(Exception):
    """Ends a forward pass that has shown enough."""


class Streams:
    """Runs single layers over batches of calibration sequences.

    Args:
        model: a causal language model of transformers, in eval mode.
        ids: sequences of equal length.
        batch_tokens: tokens of one forward pass, about.

    Raises:
        ModelError: a model whose layers cannot be run one by one with what the model gives them.
    """

    def __init__(self, model: Any, ids: Sequence[Sequence[int]], batch_tokens: int) -> None:
        self.model, self.layers = model, planned_decoder(model).layers
        self.batches: list[Batch] = []
        self._tuples = False  # that layers give
        self.work = 0  # weights times tokens that were run so far
        self._tail: tuple[Any, list[torch.Tensor]] | None = None
        self._sizes = [_size(layer) for layer in self.layers]
        self._head = _size(model) - sum(self._sizes) - _embedding_size(model)
        step = max(1, batch_tokens // len(ids[0]))
        calls: dict[int, tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]] = {}
        for start in range(0, len(ids), step):
            rows = torch.tensor([list(row) for row in ids[start : start + step]], device=model.device)
            if len(rows) not in calls:
                calls[len(rows)] = tuple(call for _, call in self._given(rows, len(self.layers)))
            ((stream, _),) = self._given(rows, 1)
            self.batches.append(Batch(rows, stream, calls[len(rows)]))
        self._check()

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(batch.ids.numel() for batch in self.batches)

    @property
    def whole(self) -> int:
        """Work of one pass of the whole model over all sequences."""
        return self.tokens * (sum(self._sizes) + self._head)

    def run(self, layers: nn.ModuleList, batch: Batch, stream: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Hidden states `(sequences, tokens, hidden_size)` behind layers `first` to `end - 1` of `layers`.

        Args:
            layers: those of the model, or of a copy of it with less in them.
            stream: in front of layer `first`.
        """
        for number in range(first, end):
            layer = layers[number]
            if all(isinstance(getattr(layer, name), REMOVED) for name in ATTRIBUTES.values()):
                continue
            args, kwargs = batch.calls[number]
            found = layer(stream, *args, **kwargs)
            self._tuples = isinstance(found, tuple)
            stream = found[0] if self._tuples else found
            self.work += batch.ids.numel() * _size(layer)
        return stream

    def loss(self, batch: Batch, stream: torch.Tensor) -> float:
        """Sum over all tokens but the first of the negative log-likelihood, from hidden states behind all layers."""
        total = 0.0
        for start in range(0, len(stream), HEAD_SEQUENCES):
            rows = slice(start, start + HEAD_SEQUENCES)
            logits = self.logits(batch.ids[rows], stream[rows])[:, :-1].float()
            wanted = batch.ids[rows, 1:]
            total += float(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
        self.work += batch.ids.numel() * self._head
        return total

    def logits(self, ids: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """Logits `(sequences, tokens, vocabulary)` from hidden states behind all layers."""
        if self._tail is None:
            self._tail = _tail(self.model, self._tuples)
        tail, emit = self._tail
        emit[0] = stream
        found: torch.Tensor = tail(ids, use_cache=False).logits
        return found

    def _given(self, ids: torch.Tensor, count: int) -> list[tuple[torch.Tensor, Any]]:
        """Hidden states and other arguments that the model gives its first `count` layers."""
        found: list[tuple[torch.Tensor, Any]] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            stream = args[0] if args else kwargs["hidden_states"]
            found.append((stream, (args[1:], rest)))
            if len(found) == count:
                raise _Stop

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        try:
            self.model(ids, use_cache=False)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if len(found) != count:
            raise ModelError(f"{self._name} does not run its {len(self.layers)} layers one after the other")
        return found

    def _check(self) -> None:
        """Compare the layers run one by one with the model itself."""
        batch = self.batches[min(1, len(self.batches) - 1)]
        stream = self.run(self.layers, batch, batch.stream, 0, len(self.layers))[:1]
        found = self.logits(batch.ids[:1], stream).float()
        expected = self.model(batch.ids[:1], use_cache=False).logits.float()
        apart = float((found - expected).abs().amax() / expected.abs().amax())
        if not apart <= (1e-3 if self.model.dtype in (torch.float32, torch.float64) else 0.1):
            raise ModelError(
                f"{self._name} cannot be searched: its layers run one by one compute other logits (they differ by "
                f"{apart:.2g})"
            )
        self.work = 0

    @property
    def _name(self) -> str:
        return type(self.model).__name__


def shared_copy(model: Any) -> Any:
    """A copy of `model` with modules of its own, on the same weights."""
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    carry_origin(model, copied)
    return copied


@contextmanager
def without(layers: nn.ModuleList, sublayers: Sequence[Sublayer]) -> Iterator[None]:
    """Within, these sublayers of `layers` add nothing."""
    old = [(layers[one.layer], ATTRIBUTES[one.kind]) for one in sublayers]
    parts = [getattr(layer, name) for layer, name in old]
    try:
        for one in sublayers:
            remove(layers, one)
        yield
    finally:
        for (layer, name), part in zip(old, parts, strict=True):
            setattr(layer, name, part)


def remove(layers: nn.ModuleList, sublayer: Sublayer) -> None:
    """Let a sublayer of `layers` add nothing."""
    part = RemovedAttention(sublayer.layer) if sublayer.kind == "attention" else RemovedMLP()
    setattr(layers[sublayer.layer], ATTRIBUTES[sublayer.kind], part)


def _tail(model: Any, tuples: bool) -> tuple[Any, list[torch.Tensor]]:
    """The model with one layer that gives what lies in the list, so that norm, head and their scales follow."""
    tail = shared_copy(model)
    decoder, emit = planned_decoder(tail), [torch.empty(0)]
    layer = decoder.layers[0]
    layer.forward = lambda *args, **kwargs: (emit[0],) if tuples else emit[0]
    decoder.layers = nn.ModuleList([layer])
    return tail, emit


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _embedding_size(model: Any) -> int:
    """Weights of the input embedding, which are looked up and not multiplied; 0 where the head has the same."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = head is not None and head.weight is embedding.weight
    return 0 if shared else int(embedding.weight.numel())
