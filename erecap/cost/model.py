"""Cost of a replanning call in milliseconds, from a few fitted coefficients. No torch in here.

A chunk of `n` new tokens on top of `kv` stored ones costs

    a + b*n + c*max(n - SOME, 0) + d*kv + e*n*(kv + n/2)

`a` is reading the weights, `b` matrix products, `d` what is done once with everything stored (copies, masks), `e`
attention, whose query i meets kv + i keys. While the weights are being read, products of few rows are nearly free:
hence `c`. Sessions read short chunks by other code than long ones, so each kind has coefficients of its own.

A pass of decoding reads `q` tokens, one or a drafted few. One token needs no mask, so a pass of several may have a cost
per stored token of its own; other kernels take over from three rows on; and packed weights serve short passes only:

    d + e*kv + f*kv*[q > 1] + g*[q > 2] + h*[q > PACKED]
      + i*(min(q, PACKED) - 1) + j*max(q - PACKED, 0) + k*(q - 1)*(kv + q/2)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

SOME = 32  # tokens of a chunk from which on reading the weights hides no more arithmetic
PACKED = 16  # longest pass that packed weights serve (erecap.decoding.short; a test compares the two)

# One coefficient each, in this order; all in ms per unit.
PREFILL_TERMS = (
    "per chunk of prefill",
    "per new token",
    f"more per new token beyond the first {SOME} of a chunk",
    "per stored token, once a chunk",
    "per new token and token that it meets",
)
DECODE_TERMS = (
    "per pass of decoding",
    "per stored token, once a pass",
    "more per stored token, once a pass of several tokens",
    "more for a pass of over 2 tokens",
    f"more for a pass of over {PACKED} tokens",
    f"per further token of a pass, up to {PACKED}",
    f"per token of a pass beyond {PACKED}",
    "per further token and token that it meets",
)
EVICT_TERMS = ("per eviction", "per token stored before it")
SPLICE_TERMS = ("per splice", "per token stored")


def prefill_features(new: float, kv: float) -> tuple[float, ...]:
    """Factors of the coefficients of `PREFILL_TERMS` for one chunk."""
    return (1.0, new, max(new - SOME, 0.0), kv, new * (kv + new / 2))


def decode_features(tokens: float, kv: float) -> tuple[float, ...]:
    """Factors of the coefficients of `DECODE_TERMS` for one pass; a mean of tokens may be broken."""
    further = tokens - 1
    masked, several = min(further, 1.0), min(max(tokens - 2, 0.0), 1.0)
    beyond = max(tokens - PACKED, 0.0)
    meeting = further * (kv + tokens / 2)
    return (1.0, kv, masked * kv, several, float(tokens > PACKED), further - beyond, beyond, meeting)


def edit_features(kv: float) -> tuple[float, ...]:
    """Factors of the coefficients of `EVICT_TERMS` and `SPLICE_TERMS`."""
    return (1.0, kv)


@dataclass(frozen=True)
class CostModel:
    """Predicted milliseconds of a session's steps.

    Fitted by `erecap.calibration.calibrate`, kept by `erecap.cost.store`.

    Counts are tokens; `kv` is what each layer stores when the step begins. Holds for reads that are not pruned on
    their way through the layers (`prune=None`).

    Raises:
        ValueError: a coefficient that is no finite number from 0 on, not as many as there are terms, or a count of
            tokens that is none.
    """

    prefill: tuple[float, ...]  # ms, in the order of PREFILL_TERMS, for chunks of more than `short` tokens
    decode: tuple[float, ...]  # ms, in the order of DECODE_TERMS
    evict: tuple[float, ...] = (0.0, 0.0)  # ms, in the order of EVICT_TERMS
    splice: tuple[float, ...] = (0.0, 0.0)  # ms, SPLICE_TERMS; 0 for a model whose keys cannot be moved
    prefill_short: tuple[float, ...] | None = None  # the same for the shorter chunks; None: as the longer ones
    short: int = 0  # tokens of the longest short chunk
    chunk: int = 512  # tokens that prefill reads at once

    def __post_init__(self) -> None:
        named = {"prefill": PREFILL_TERMS, "decode": DECODE_TERMS, "evict": EVICT_TERMS, "splice": SPLICE_TERMS}
        if self.prefill_short is not None:
            named["prefill_short"] = PREFILL_TERMS
        for name, terms in named.items():
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != len(terms) or not all(map(_is_coefficient, values)):
                raise ValueError(f"CostModel.{name} needs {len(terms)} finite numbers from 0 on, got {values!r}")
        for name, least in (("short", 0), ("chunk", 1)):
            tokens = getattr(self, name)
            if type(tokens) is not int or tokens < least:
                raise ValueError(f"CostModel.{name} must be a whole number, at least {least}, got {tokens!r}")

    def predict_prefill(self, new: int, kv: int, *, budget: int | None = None) -> float:
        """Milliseconds of a prefill of `new` tokens on top of `kv` stored ones, chunk by chunk.

        Args:
            budget: tokens that stay stored between two chunks of a long read; None: all.
        """
        return self._read(new, kv, budget)[0]

    def _read(self, new: int, kv: int, budget: int | None) -> tuple[float, int]:
        """Milliseconds of a read, and what is stored right after it."""
        total, left = 0.0, new
        while left > 0:
            part = min(left, self.chunk)
            total += _product(self._prefill_of(part), prefill_features(part, kv))
            left -= part
            kv += part
            if left > 0 and budget is not None:
                kv = min(kv, budget)
        return total, kv

    def _prefill_of(self, tokens: int) -> tuple[float, ...]:
        short = self.prefill_short is not None and tokens <= self.short
        return self.prefill_short if short else self.prefill  # type: ignore[return-value]

    def predict_pass(self, tokens: float, kv: float) -> float:
        """Milliseconds of one decoding pass over `tokens` tokens, all of whose logits are wanted."""
        return _product(self.decode, decode_features(tokens, kv)) if tokens > 0 else 0.0

    def predict_decode(self, tokens: int, kv: int, passes: int | None = None) -> float:
        """Milliseconds to generate `tokens` tokens after a prefill, which gives the first of them.

        Args:
            passes: forward passes, where drafts or forced tokens save some; None: one a token.
        """
        steps = tokens - 1
        if steps <= 0:
            return 0.0
        count = steps if passes is None else max(1, passes)
        return count * self.predict_pass(max(1.0, steps / count), kv + steps / 2)

    def predict_replan(
        self, new: int, kv: int, plan_tokens: int, *, passes: int | None = None, budget: int | None = None
    ) -> float:
        """Milliseconds of a whole call: prefill of `new` tokens on top of `kv`, then `plan_tokens` generated."""
        reading, after = self._read(new, kv, budget)
        return reading + self.predict_decode(plan_tokens, after, passes)

    def predict_verify(self, new: int, kv: int, old_plan_tokens: int, *, budget: int | None = None) -> float:
        """Milliseconds of a prefill of `new` tokens and one pass that verifies the rest of an old plan."""
        reading, after = self._read(new, kv, budget)
        return reading + self.predict_pass(old_plan_tokens, after)

    def predict_evict(self, kv: int) -> float:
        """Milliseconds to rank `kv` stored tokens and evict some of them."""
        return _product(self.evict, edit_features(kv))

    def predict_splice(self, kv: int) -> float:
        """Milliseconds to reposition `kv` stored tokens, whose keys are rotated."""
        return _product(self.splice, edit_features(kv))


def _is_coefficient(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _product(coefficients: tuple[float, ...], features: tuple[float, ...]) -> float:
    return sum(weight * feature for weight, feature in zip(coefficients, features, strict=True))
