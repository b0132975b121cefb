"""Upper bounds of what pruning can save, from counted FLOPs and from the phases of a full prefill."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from erecap.bench.results import Figure
from erecap.cost.flops import ModelShape, attention_scorer_flops, schedule_ceiling, time_weighted_ceiling
from erecap.generation import JsonRow

SHARE_RUNS = 1  # prefills that are timed for attention's share, which scatters little


class _AttentionClock(TorchFunctionMode):
    """Adds up the seconds spent in the attention function while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        started = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        self.seconds += time.perf_counter() - started
        return result


def attention_share(model: Any, ids: Sequence[int], runs: int = SHARE_RUNS) -> float | None:
    """Attention's share of the time of a full prefill of `ids`, its median over `runs`.

    Returns:
        From 0 to 1; None where it cannot be told: not on a CPU, or attention other than `sdpa`.
    """
    if model.device.type != "cpu":
        return None
    inputs = torch.tensor([list(ids)])
    shares = []
    for _ in range(runs):
        started = time.perf_counter()
        with torch.no_grad(), _AttentionClock() as clock:
            model(input_ids=inputs, use_cache=True, logits_to_keep=1)
        shares.append(clock.seconds / (time.perf_counter() - started))
    share = statistics.median(shares)
    return share if share > 0 else None


FAULT_REPETITIONS = 3  # fewer say nothing about how much they scatter, so they are no ground for calling a fault


@dataclass(frozen=True)
class Bounded:
    """A speed-up beside its ceilings."""

    speed_up: Figure  # of a pruned prefill over the full one
    flops: float  # ceiling from the counted FLOPs
    timed: float | None  # ceiling from the FLOPs of each part, weighted by its time; None where that was not taken

    @property
    def share(self) -> float:
        """Share of the FLOP ceiling that the speed-up reaches."""
        return self.speed_up.value / self.flops

    @property
    def fault(self) -> bool:
        """True if the figure exceeds its ceiling by more than its repetitions scatter.

        The bound is the time-weighted ceiling, since attention runs at fewer FLOP/s than matrix products. Above it
        something is measured wrongly, for example two sides that do not do the same work.
        """
        bound = self.flops if self.timed is None else max(self.flops, self.timed)
        return self.speed_up.n >= FAULT_REPETITIONS and self.speed_up.low > bound

    def as_row(self) -> JsonRow:
        """The figures as a row for files and tables."""
        return {
            "speed_up": self.speed_up.value,
            "low": self.speed_up.low,
            "high": self.speed_up.high,
            "flop_ceiling": self.flops,
            "time_ceiling": self.timed,
            "share": self.share,
            "fault": self.fault,
        }


def bounded(
    speed_up: Figure,
    shape: ModelShape,
    kept: Sequence[float],
    full: Sequence[float],
    share: float | None,
    scorer: str,
) -> Bounded:
    """`speed_up` beside the ceilings that the tokens read by each layer (`kept`, and `full`) allow."""
    paid = attention_scorer_flops(shape, kept) if scorer == "attention" else 0.0
    flops = schedule_ceiling(shape, kept, full, paid).total
    timed = None if share is None else time_weighted_ceiling(shape, kept, full, share, paid)
    return Bounded(speed_up, flops, timed)


def ratio(over: Sequence[float], under: Sequence[float]) -> Figure:
    """Median over median, and the least and greatest ratio of two measurements of the same repetition."""
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    return Figure(statistics.median(over) / statistics.median(under), min(pairs), max(pairs), len(pairs))


def ratio_apart(over: Sequence[float], under: Sequence[float]) -> Figure:
    """Median over median of measurements that were not taken in turn: the range is the widest possible."""
    value = statistics.median(over) / statistics.median(under)
    return Figure(value, min(over) / max(under), max(over) / min(under), min(len(over), len(under)))
