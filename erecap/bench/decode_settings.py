"""Settings of the decoding bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeBench:
    """Settings of `erecap bench decode`."""

    kv: tuple[int, ...] = (0, 1024, 4096)  # tokens of history stored while decoding
    tokens: int = 32  # generated in every call, no more and no fewer
    weights: tuple[str, ...] = ("same", "int8", "int4")
    drafted: bool = True  # also decode replans that repeat part of the plan before, drafted and plainly
    product_weights: str = "int4"  # with which those are decoded beside `same`
    points: int = 8  # replans that follow one another in the household
    history: int = 1000  # tokens of chat before the first of them
    kv_tokens: int = 1024  # budget of their sessions
    repetitions: int = 5
    seed: int = 0
