"""Choice of decoder for a read: fused for few tokens, the model itself for many. Weights are packed once per model."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

from erecap.decoding.fused import FusedDecoder, fused_problem
from erecap.decoding.linear import Weights, known_weights

FUSED_TOKENS = 128  # up to here the fused decoder saves more than it costs
FLAT_TOKENS_ELSEWHERE = 512  # on accelerators, where starting an operation is what costs
PACKED_TOKENS = 16  # beyond, the kernels of packed weights are slower than a product in float32

_lock = threading.Lock()
_made: weakref.WeakKeyDictionary[Any, tuple[Any, dict[str, FusedDecoder]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ShortReads:
    """The fused decoders of one model; None where its architecture is not known, and the model reads everything."""

    same: FusedDecoder | None
    packed: FusedDecoder | None

    def decoder(self, tokens: int, decode: bool) -> FusedDecoder | None:
        """The decoder for a read of `tokens` tokens; None: the model itself. `decode`: generated or drafted ones."""
        if self.same is None or self.same.bypasses():
            return None
        if decode and self.packed is not None and tokens <= PACKED_TOKENS:
            return self.packed
        limit = FLAT_TOKENS_ELSEWHERE if self.same.pads else FUSED_TOKENS
        return self.same if tokens <= limit else None


def short_reads(model: Any, weights: Weights = "same") -> ShortReads:
    """The fused decoders for `model`, made at the first call and again when its weights have changed by the next.

    Whoever holds them goes on with the weights of that moment where these are packed copies.

    Raises:
        ValueError: unknown `weights`, or packed ones for a model that cannot have them.
    """
    weights = known_weights(weights)
    if weights == "same" and fused_problem(model) is not None:
        return ShortReads(None, None)
    with _lock:
        # Tensors made in inference mode count no versions; outside of it they cannot be written to.
        state = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in model.parameters())
        known, decoders = _made.get(model, (None, {}))
        if known != state:
            decoders = {}
            _made[model] = (state, decoders)
        for kind in (weights, "same"):
            if kind not in decoders:
                decoders[kind] = FusedDecoder(model, kind)  # type: ignore[arg-type]
        return ShortReads(decoders["same"], decoders[weights] if weights != "same" else None)
