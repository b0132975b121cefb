"""Cost of a decoding pass by the number of its tokens, which decides how many drafted tokens are verified.

A calibrated cost model (`erecap calibrate`) says it for this machine. Without one the reference costs below hold:
ratios to a pass of one token, measured on one thread of a CPU with 1,024 tokens stored. They are frozen, so that the
number of passes of an answer is the same wherever it is played.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

from erecap.cost.model import CostModel

Passes = Literal["own", "packed", "accelerator", "llamacpp"]
PassCost = Callable[[int, int], float]  # (tokens of a pass, tokens stored) -> milliseconds, or any other unit

# Tokens of a pass and its cost. Embedded model in bfloat16, the model's own weights; and its weights in 4 bits.
OWN_WEIGHTS = ((1, 1.0), (2, 1.13), (4, 1.17), (8, 1.30), (16, 1.58), (20, 1.68), (24, 2.19), (32, 2.5))
PACKED_WEIGHTS = ((1, 1.0), (2, 1.40), (4, 1.49), (5, 1.75), (8, 2.10), (12, 2.63), (16, 3.25), (24, 4.82), (32, 6.0))
# Where a pass waits for operations to be started, further tokens are nearly free.
ACCELERATOR = ((1, 1.0), (2, 1.02), (16, 1.08), (64, 1.3))


# llama.cpp on a CPU with a GGUF file of 4 bits (Q4_1).
LLAMACPP = ((1, 1.0), (2, 2.20), (4, 3.91), (8, 6.71), (16, 12.03), (24, 17.64), (32, 23.18))
TABLES: dict[Passes, tuple[tuple[int, float], ...]] = {
    "own": OWN_WEIGHTS, "packed": PACKED_WEIGHTS, "accelerator": ACCELERATOR, "llamacpp": LLAMACPP,
}  # fmt: skip


def reference_cost(passes: Passes = "own") -> PassCost:
    """The reference costs of a model's own weights on a CPU, of packed ones, of an accelerator, or of llama.cpp."""
    table = TABLES[passes]
    sizes = [size for size, _ in table]

    def cost(tokens: int, stored: int) -> float:
        place = min(max(1, bisect_left(sizes, tokens)), len(table) - 1)
        (low, before), (high, after) = table[place - 1 : place + 1]
        return before + (after - before) * (tokens - low) / (high - low)

    return cost


def calibrated_cost(model: CostModel) -> PassCost:
    """The milliseconds that a calibrated cost model predicts."""
    return lambda tokens, stored: model.predict_pass(tokens, stored)
