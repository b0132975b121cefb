"""Cost of a decoding pass by the number of its tokens, which decides how many drafted tokens are verified.

A calibrated cost model (`erecap calibrate`) says it for this machine. Without one the reference costs below hold:
ratios to a pass of one token, measured on one thread of a CPU with 1,024 tokens stored. They are frozen, so that the
number of passes of an answer is the same wherever it is played.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from erecap.cost.model import CostModel

PassCost = Callable[[int, int], float]  # (tokens of a pass, tokens stored) -> milliseconds, or any other unit

# Tokens of a pass and its cost. Embedded model in bfloat16, the model's own weights; and its weights in 4 bits.
OWN_WEIGHTS = ((1, 1.0), (2, 1.13), (4, 1.17), (8, 1.30), (16, 1.58), (20, 1.68), (24, 2.19), (32, 2.5))
PACKED_WEIGHTS = ((1, 1.0), (2, 1.40), (4, 1.49), (5, 1.75), (8, 2.10), (12, 2.63), (16, 3.25), (24, 4.82), (32, 6.0))
# Where a pass waits for operations to be started, further tokens are nearly free.
ACCELERATOR = ((1, 1.0), (2, 1.02), (16, 1.08), (64, 1.3))


def reference_cost(packed: bool = False, accelerator: bool = False) -> PassCost:
    """The reference costs, of packed weights, of an accelerator, or else of the model's own weights on a CPU."""
    table = ACCELERATOR if accelerator else PACKED_WEIGHTS if packed else OWN_WEIGHTS
    sizes = [size for size, _ in table]

    def cost(tokens: int, stored: int) -> float:
        place = min(max(1, bisect_left(sizes, tokens)), len(table) - 1)
        (low, before), (high, after) = table[place - 1 : place + 1]
        return before + (after - before) * (tokens - low) / (high - low)

    return cost


def calibrated_cost(model: CostModel) -> PassCost:
    """The milliseconds that a calibrated cost model predicts."""
    return lambda tokens, stored: model.predict_pass(tokens, stored)
