"""Measured speed of sliced models beside the whole one, over what their FLOPs promise: figure L4."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from erecap.bench.layer_clock import LayerClock, clock
from erecap.bench.replan.ceilings import attention_share, ratio
from erecap.bench.results import Figure, result_row
from erecap.decoding.linear import Weights
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.layers.applying import with_plan
from erecap.layers.slices.flops import ModelFlops
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.settings import SliceSettings

L4_SHARES = (0.2, 0.3)
WHOLE = "whole"
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class SlicesBench:
    """Settings of `erecap bench slices`.

    Raises:
        ConfigError: numbers that make no sense.
    """

    heads: tuple[float, ...] = L4_SHARES  # shares that go, each a model of its own
    channels: tuple[float, ...] = L4_SHARES
    spread: str = "uniform"
    multiple: int = 32
    tokens: int = 1024  # that are read
    decoded: int = 32  # that are decoded after them
    weights: Weights = "same"  # precision while decoding
    repetitions: int = 15
    seed: int = 0  # of the household text

    @property
    def published(self) -> bool:
        """True where the shares are those of figure L4."""
        return (self.heads, self.channels) == (L4_SHARES, L4_SHARES)

    def __post_init__(self) -> None:
        if not (self.heads or self.channels):
            raise ConfigError("bench slices: no heads and no channels; give shares of one of them")
        if min(self.tokens, self.decoded, self.repetitions) < 1:
            raise ConfigError(
                f"tokens {self.tokens}, decoded {self.decoded}, repetitions {self.repetitions}; allowed: from 1 on"
            )


def sliced_models(model: Any, bench: SlicesBench) -> dict[str, Any]:
    """The whole model and its slices by name. Slices are chosen by weights, as their time does not depend on it.

    Raises:
        ConfigError, ModelError: as `Slicer.plan`.
    """
    slicer, models = Slicer(model), {WHOLE: model}
    named = {f"heads-{share:g}": (share, 0.0) for share in bench.heads}
    named |= {f"channels-{share:g}": (0.0, share) for share in bench.channels}
    for name, (heads, channels) in named.items():
        settings = SliceSettings(heads, channels, "weights", bench.spread, bench.multiple)
        models[name] = with_plan(model, slicer.plan(settings), check=False)
    return models


def slices_bench(
    bench: SlicesBench,
    models: Mapping[str, Any],
    ids: Sequence[int],
    say: Callable[[str], None] = lambda text: None,
) -> JsonRow:
    """Time every model in turn: reading `ids` in a session's engine, then decoding.

    Args:
        models: by name; `whole` is the one that the others are compared with.

    Returns:
        `raw` rows (`model`, `repetition`, `prefill_ms`, `decode_ms` of a token); `flops` by model and phase, with those
        of attention in the prefill, and the bytes that a decoded token reads; `attention_share` of the whole model's
        prefill time (None: not on a CPU).

    Raises:
        ConfigError: a text that does not fit the window, or a model that no session serves.
    """
    settings = LayerClock(len(ids), bench.decoded, bench.repetitions, weights=bench.weights)
    timed = dict(zip(models, clock(list(models.values()), ids, settings, say, "bench slices"), strict=True))
    counted = {name: ModelFlops(model) for name, model in models.items()}
    flops = {
        name: {
            "prefill": own.prefill(len(ids)),
            "decode": own.decode(len(ids), bench.decoded),
            "attention": own.prefill_attention(len(ids)),
            "decode_bytes": own.decode_bytes(len(ids)),
        }
        for name, own in counted.items()
    }
    raw = [
        {"model": name, "repetition": repetition, "prefill_ms": prefill, "decode_ms": decode}
        for name, times in timed.items()
        for repetition, (prefill, decode) in enumerate(times.rounds(bench.decoded))
    ]
    return {"raw": raw, "flops": flops, "attention_share": attention_share(models[WHOLE], ids)}


def slices_summary(found: JsonRow) -> list[JsonRow]:
    """For each sliced model and phase: medians, speed-up and FLOP ratio, and how much of the promise was kept.

    `bound` is what slicing can reach at most: in a prefill the FLOP ratio where attention and matrix products run at
    the FLOP/s that each had in the whole model; in decoding, which waits for memory, the ratio of bytes read.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for row in sorted(found["raw"], key=lambda row: int(row["repetition"])):
        for phase in PHASES:
            times.setdefault((row["model"], phase), []).append(row[f"{phase}_ms"])
    summary = []
    for name, counted in found["flops"].items():
        for phase in PHASES if name != WHOLE else ():
            speed = ratio(times[WHOLE, phase], times[name, phase])
            promised = found["flops"][WHOLE][phase] / counted[phase]
            shares = [(value - 1) / (promised - 1) for value in (speed.value, speed.low, speed.high) if promised > 1]
            summary.append(
                {
                    "model": name,
                    "phase": phase,
                    "whole_ms": statistics.median(times[WHOLE, phase]),
                    "ms": statistics.median(times[name, phase]),
                    "speed_up": asdict(speed),
                    "flop_ratio": promised,
                    "bound": _bound(found, name, phase),
                    # None where no FLOPs were saved, as by masks of weights.
                    "share": asdict(Figure(shares[0], shares[1], shares[2], speed.n)) if shares else None,
                }
            )
    return summary


def _bound(found: JsonRow, name: str, phase: str) -> float | None:
    share, whole, thin = found["attention_share"], found["flops"][WHOLE], found["flops"][name]
    if phase == "decode":
        return float(whole["decode_bytes"] / thin["decode_bytes"])
    if share is None:
        return None
    rest = (thin["prefill"] - thin["attention"]) / (whole["prefill"] - whole["attention"])
    return float(1 / (share * thin["attention"] / whole["attention"] + (1 - share) * rest))


def slices_rows(bench: SlicesBench, summary: Sequence[JsonRow], about: JsonRow) -> list[JsonRow]:
    """L4: the model and phase that keeps least of what its FLOPs promise; none where other slices were measured."""
    if not bench.published:
        return []
    worst = min(summary, key=lambda row: float(row["share"]["value"]))
    note = f"{worst['phase']} with {worst['model']}: {worst['speed_up']['value']:.3f} of {worst['flop_ratio']:.3f}"
    return [result_row("L4", Figure(**worst["share"]), about, row="algorithm", note=note)]
