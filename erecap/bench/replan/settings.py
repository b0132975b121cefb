"""Settings of the replan bench."""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = "floor"
STOCK = "hf"
ROW_NAMES = ("algorithm", "product", STOCK)


@dataclass(frozen=True)
class ReplanBench:
    """Settings of `erecap bench replan`."""

    lengths: tuple[int, ...] = (1000, 2000, 4000, 7500)  # tokens of history
    modes: tuple[str, ...] = ("full", "reuse", "erecap", "prune[recency]")
    rows: tuple[str, ...] = ("algorithm",)  # of `ROW_NAMES`
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    keep: float = 0.7
    decode_weights: str = "int4"  # in the product row
    stock_lengths: tuple[int, ...] = (4000, 7500)  # of these, the lengths at which the stock `generate` is timed
    memory: bool = False  # also the peak memory of each mode at each length, of the algorithm row
    seed: int = 0
