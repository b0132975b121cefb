"""Choice of decoder for a read: fused for few tokens, the model itself for many. Weights are packed once per model."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from erecap.decoding.fused import FusedDecoder, fused_problem
from erecap.decoding.linear import Weights, known_weights
from erecap.decoding.watch import ModelWatch

FUSED_TOKENS = 128  # up to here the fused decoder saves more than it costs
FLAT_TOKENS_ELSEWHERE = 512  # on accelerators, where starting an operation is what costs
PACKED_TOKENS = 16  # beyond, the kernels of packed weights are slower than a product in float32


class _Made:
    """The fused decoders made for one state of a model."""

    def __init__(self, model: Any) -> None:
        self.watch = ModelWatch(model)
        self.problem = fused_problem(model)
        self.decoders: dict[Weights, FusedDecoder] = {}


_lock = threading.Lock()
_made: weakref.WeakKeyDictionary[Any, _Made] = weakref.WeakKeyDictionary()


class ShortReads:
    """The fused decoders of one model, made anew when the model was changed.

    Args:
        model: any causal language model of transformers.
        weights: precision of the weights while decoding.
    """

    def __init__(self, model: Any, weights: Weights) -> None:
        self._model = model
        self._weights = weights
        self._made = _current(model)

    def refresh(self) -> None:
        """Look at the model anew; called before each prefill and each answer."""
        self._made = _current(self._model)

    @property
    def same(self) -> FusedDecoder | None:
        """The decoder with the model's own weights; None where the model reads everything."""
        self.refresh()
        return None if self._made.problem is not None else _of(self._made, self._model, "same")

    @property
    def packed(self) -> FusedDecoder | None:
        """The decoder with packed weights; None where there is none."""
        self.refresh()
        if self._weights == "same" or self._made.problem is not None:
            return None
        return _of(self._made, self._model, self._weights)

    def decoder(self, tokens: int, decode: bool) -> FusedDecoder | None:
        """The decoder for a read of `tokens` tokens; None: the model itself. `decode`: generated or drafted ones."""
        made = self._made
        if made.problem is not None or made.watch.bypassed():
            return None
        packs = decode and self._weights != "same" and tokens <= PACKED_TOKENS
        if packs and self._model.device.type == "cpu":
            return _of(made, self._model, self._weights)
        same = _of(made, self._model, "same")
        return same if tokens <= (FLAT_TOKENS_ELSEWHERE if same.pads else FUSED_TOKENS) else None


def short_reads(model: Any, weights: Weights = "same") -> ShortReads:
    """The fused decoders for `model`; sessions share them.

    Raises:
        ValueError: unknown `weights`, or packed ones for a model that cannot have them.
    """
    reads = ShortReads(model, known_weights(weights))
    if weights != "same":
        _of(_current(model), model, weights)  # packed now, which takes a while, and refused now
    return reads


def _current(model: Any) -> _Made:
    """What was made for the model as it is now."""
    made = _made.get(model)
    if made is None or made.watch.changed():
        with _lock:
            made = _made.get(model)
            if made is None or made.watch.changed():
                made = _made[model] = _Made(model)
    return made


def _of(made: _Made, model: Any, weights: Weights) -> FusedDecoder:
    if weights not in made.decoders:
        with _lock:
            if weights not in made.decoders:
                made.decoders[weights] = FusedDecoder(model, weights)
    return made.decoders[weights]
