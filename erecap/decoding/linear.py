"""Matrix products for short reads: the model's own weights, or packed weights in 8 or 4 bits.

Decoding one token reads every weight once, so on a CPU its time is the bytes of the weights. Packed weights are read by
torch's own weight-only kernels, which take bfloat16 activations; rows do not influence each other, so a
drafted chunk gives what single tokens give.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

Weights = Literal["same", "int8", "int4"]
WEIGHTS: tuple[Weights, ...] = ("same", "int8", "int4")


def known_weights(name: str) -> Weights:
    """`name` as one of `WEIGHTS`. Raises ValueError for any other."""
    for kind in WEIGHTS:
        if name == kind:
            return kind
    raise ValueError(f"unknown decode weights {name!r}; allowed: {', '.join(WEIGHTS)}")


Product = Callable[[torch.Tensor], torch.Tensor]

SOME_ROWS = range(3, 33)  # of activations, where the order of a product matters
GROUP = 32  # weights that share one scale and one zero in 4 bits
# The 8-bit kernels take so many inputs at a time, and read beyond the end of a row that is no multiple of it.
INT8_INPUTS = 16
# 4 bits only where they lose next to nothing, as in models that were published in 4 bits and unpacked.
MOST_LOSS = 0.01
# Rounding errors of one product of `n` summands are random walks (Higham and Mary 2019, 10.1137/18M1226312): below the
# square root of `n`, times the precision and the lengths of both factors. Two products differ by two of these.
SUMMED = 2
# Beside that, of the logit: what every product in float32 is allowed, and the steps to which lower precision rounds.
NEAR, STEPS = 5e-5, 1.5


def make_product(weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], kind: Weights) -> Product:
    """`x (rows, in) -> (rows, out)`: what linear layers with these weights give, side by side.

    Args:
        weights: each `(out_i, in)`, float; `out` is their sum.
        biases: each `(out_i,)` or None.
        kind: `same` uses the given weights where they are, without a copy; `int8` one scale per output; `int4` one
            scale and zero per 32 inputs, where that loses less than one per cent of the weights' norm, else `int8`.
    """
    if kind == "same":
        return _same(list(weights), list(biases))
    weight = torch.cat([part.detach() for part in weights]) if len(weights) > 1 else weights[0].detach()
    bias = _joined(weights, biases)
    packed = _int4(weight.float()) if kind == "int4" else None
    product = packed or _int8(weight.float())
    return product if bias is None else lambda x: product(x) + bias


class Head:
    """The language-model head: logits keep float32, or near ties would become ties.

    Where torch was built without oneDNN, which has the integer product, the head keeps its own weights.

    Args:
        weight: `(vocabulary, hidden_size)`.
        bias: `(vocabulary,)` or None.
        kind: as of `make_product`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kind: Weights) -> None:
        self._weight, self._bias = weight, bias
        self.packed = kind != "same" and torch.backends.mkldnn.is_available()
        if self.packed:
            product = _int8_exact_rows(weight.detach().float(), None if bias is None else bias.detach().float())
        else:
            product = _same([weight], [bias])
        self._product = product
        self.tokens = int(weight.shape[0])  # of the vocabulary

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(rows, vocabulary)` of `x` `(rows, hidden_size)`."""
        return self._product(x)

    def some(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(rows, n)` of the tokens `ids` `(n,)` alone, and how far those of the whole head may be from them.

        Both are float32. Sums in another order differ by rounding, which grows with what is summed, not with the sum:
        large products may cancel.
        """
        weight = self._weight.index_select(0, ids)
        bias = None if self._bias is None else self._bias.index_select(0, ids)
        wide = weight.detach().float()
        if self.packed:
            scale = _scale_of(wide)
            whole = (wide / scale.unsqueeze(1)).round()
            first, second, size = _digits(x.float())
            logits = (first + second / 126) @ whole.t() * (size / 63) * scale
            logits = logits if bias is None else logits + bias.detach().float()
        else:
            logits = F.linear(x, weight, bias)
        eps = torch.finfo(logits.dtype).eps
        near = STEPS * eps if eps > torch.finfo(torch.float32).eps else NEAR
        logits = logits.float()
        summed = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True) * torch.linalg.vector_norm(wide, dim=1)
        error = SUMMED * math.sqrt(wide.shape[1]) * torch.finfo(torch.float32).eps * summed
        return logits, error + near * logits.abs().clamp_min(1)


def _joined(weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    if all(bias is None for bias in biases):
        return None
    parts = [w.new_zeros(w.shape[0]) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)]
    return torch.cat(parts)


def _same(weights: list[torch.Tensor], biases: list[torch.Tensor | None]) -> Product:
    pairs = list(zip(weights, biases, strict=True))
    if len(pairs) == 1:
        weight, bias = pairs[0]
        return lambda x: _linear(x, weight, bias)
    return lambda x: torch.cat([_linear(x, weight, bias) for weight, bias in pairs], -1)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    if plain and x.shape[0] in SOME_ROWS and _other_way_round(*weight.shape):
        product = torch.mm(weight, x.t()).t()
        return product if bias is None else product + bias
    return F.linear(x, weight, bias)


@cache
def _other_way_round(outputs: int, inputs: int) -> bool:
    """Return True if this machine multiplies `weight @ x.T` faster than `x @ weight.T` for a few rows.

    Some libraries copy the whole weight into another order when it stands on the right, which for a few rows of `x`
    takes longer than the product. Measured once a shape: 8 rows, and the best of five with weights that no cache holds.
    """
    weights = torch.ones(6, min(outputs, 4096), inputs)
    x = torch.ones(8, inputs)
    best = []
    with torch.no_grad():
        for product in (F.linear, lambda x, weight: torch.mm(weight, x.t()).t().contiguous()):
            times = []
            for weight in weights:
                started = time.perf_counter()
                product(x, weight)
                times.append(time.perf_counter() - started)
            best.append(min(times[1:]))
    return best[1] < best[0]


def _int8(weight: torch.Tensor) -> Product:
    scale = (weight.abs().amax(1) / 127).clamp_min(1e-12).to(torch.bfloat16)
    # Rounded with the scale as it is stored, which has fewer digits than the one computed.
    packed = (weight / scale.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    rest = -weight.shape[1] % INT8_INPUTS
    if rest:
        packed = F.pad(packed, (0, rest))
        return lambda x: torch._weight_int8pack_mm(F.pad(x.bfloat16(), (0, rest)), packed, scale).to(x.dtype)
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), packed, scale).to(x.dtype)


def _int4(weight: torch.Tensor) -> Product | None:
    """None where the weights do not fit 4 bits, in shape or in value."""
    rows, columns = weight.shape
    if rows % 64 or columns % GROUP:
        return None
    groups = weight.view(rows, columns // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(1e-12).bfloat16().float()
    zero = (low + 8 * scale).bfloat16().float()
    steps = ((groups - zero.unsqueeze(-1)) / scale.unsqueeze(-1) + 8).round().clamp(0, 15)
    loss = ((steps - 8) * scale.unsqueeze(-1) + zero.unsqueeze(-1) - groups).norm() / groups.norm()
    if not float(loss) < MOST_LOSS:
        return None
    packed = torch._convert_weight_to_int4pack_for_cpu(steps.view(rows, columns).to(torch.int32), 1)
    scales = torch.stack([scale, zero], -1).transpose(0, 1).contiguous().bfloat16()
    kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda x: kernel(x.bfloat16(), packed, GROUP, scales).to(x.dtype)


def _int8_exact_rows(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """8-bit weights, activations in two 7-bit digits, float32 results.

    An input row is written as `a * (d1 / 63 + d2 / (63 * 126))` with whole digits, and both digits go through one
    integer product as two rows. Seven bits, because older processors saturate sums of products of eight.
    """
    scale = _scale_of(weight)
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack((weight / scale.unsqueeze(1)).round().to(torch.int8), None)
    kernel = torch.ops.onednn.qlinear_pointwise

    def product(x: torch.Tensor) -> torch.Tensor:
        first, second, size = _digits(x.float())
        both = torch.cat([first, second]).add_(64).to(torch.uint8)
        sums = kernel(both, 1 / 63, 64, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        first, second = sums.chunk(2)
        logits = torch.add(first, second, alpha=1 / 126).mul_(size)
        return logits if bias is None else logits + bias

    return product


def _scale_of(weight: torch.Tensor) -> torch.Tensor:
    """The scale `(rows,)` of 8-bit weights."""
    return (weight.abs().amax(1) / 127).clamp_min(1e-12)


def _digits(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two digits of `x` `(rows, in)`, whole numbers, and its size `(rows, 1)`."""
    size = x.abs().amax(1, keepdim=True).clamp_min(1e-30)
    digits = x / size * 63
    first = digits.round()
    return first, ((digits - first) * 126).round(), size
