"""Settings of `erecap tune layers`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erecap.bench.layer_clock import LayerClock
from erecap.errors import ConfigError
from erecap.layers.search import SearchOptions
from erecap.layers.slices.profiles import RATIOS
from erecap.layers.slices.settings import SliceSettings
from erecap.registries import LAYER_SEARCHES
from erecap.tuning.calibration_texts import PLANNER

METHODS = ("sprint", "sleb", "blockpruner", "shortgpt", "magnitude", "random")
SPEED_UPS = (1.1, 1.15, 1.2, 1.3, 1.37)  # 1.15 and 1.3 lie between two others: figures there are interpolated
SLICES = tuple(f"{part}-{share:g}" for part in ("heads", "channels") for share in RATIOS)
QUALITIES = ("tokens", "plans")  # that agreement is counted in


@dataclass(frozen=True)
class FrontSettings:
    """Settings of a front.

    Raises:
        ConfigError: a value out of range, or no such method.
    """

    methods: tuple[str, ...] = METHODS  # names of `erecap.registries.LAYER_SEARCHES`
    speed_ups: tuple[float, ...] = SPEED_UPS  # predicted ones of decoding; a plan of each method for each
    options: SearchOptions = field(default_factory=SearchOptions)
    texts: tuple[str, ...] = (PLANNER,)  # calibration, see `calibration_ids`; the same for all methods
    count: int = 32  # calibration sequences
    length: int = 128  # tokens of each
    slices: tuple[str, ...] = SLICES  # heads-SHARE or channels-SHARE
    slice_count: int = 64  # sequences of `length` tokens that slices are calibrated on
    multiple: int = 32  # channels that a sliced layer keeps are a multiple of this
    kv_tokens: tuple[int, ...] = (512,)  # budgets that are combined with the best plans
    evict_by: str | None = None  # ranking of what is evicted: a name of `EVICT_BY` or a trained pruner; None: recency
    drafts: bool = True  # combine with drafts
    combined: int = 3  # plans of the front that are combined; the whole model is as well
    episodes: int = 8  # whose plans are compared
    calls: int | None = 12  # planning calls of an episode; None: all
    by: str = "tokens"  # agreement of the front: plan tokens, or whole plans
    least: float = 0.9  # agreement of what is proposed
    timed_calls: int = 3  # planning calls that are timed
    rounds: int = 3  # of each
    clock: LayerClock = field(default_factory=LayerClock)  # of plans alone: prefill and decoding
    together: int = 4  # models that are timed in turn with the whole one
    play: str | None = None  # suite that the front is played on; None: nothing is played
    play_episodes: int = 20
    play_batch: int = 1  # episodes side by side
    play_from: float = 1.0  # points of the front below this speed-up are not played
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            LAYER_SEARCHES.get_or_refuse(method, "--methods")
        for name in ("methods", "speed_ups", "slices", "kv_tokens"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"--{name.replace('_', '-')}: one is named twice; once each is allowed")
        if not self.speed_ups or not all(1 < one < math.inf for one in self.speed_ups):
            raise ConfigError(f"--speed-ups: got {', '.join(map(str, self.speed_ups)) or 'none'}; allowed: above 1")
        if any(tokens < 16 for tokens in self.kv_tokens):
            raise ConfigError(f"--kv-tokens: got {min(self.kv_tokens)}; allowed: 16 or more")
        if self.by not in QUALITIES:
            raise ConfigError(f"--by: got {self.by!r}; allowed: {', '.join(QUALITIES)}")
        if not 0 <= self.least <= 1:
            raise ConfigError(f"--least: got {self.least:g}; allowed: 0 to 1")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')}: got {value}; allowed: {least} or more")
        if not self.methods and not self.slices:
            raise ConfigError("--methods, --slices: both are empty, so there is nothing to compare")
        self.slice_settings()

    def slice_settings(self) -> dict[str, SliceSettings]:
        """The slices by name: chosen by activation, fitted by least squares.

        Raises:
            ConfigError: a name that is none.
        """
        found = {}
        for name in self.slices:
            part, _, text = name.partition("-")
            try:
                share = float(text)
            except ValueError:
                share = math.nan
            if part not in ("heads", "channels") or not 0 < share < 1:
                raise ConfigError(f"--slices: got {name!r:.40}; allowed: heads-SHARE, channels-SHARE, as heads-0.2")
            heads, channels = (share, 0.0) if part == "heads" else (0.0, share)
            found[name] = SliceSettings(heads, channels, multiple=self.multiple, reconstruct="least-squares")
        return found

    def facts(self) -> dict[str, Any]:
        """The settings as JSON values, without paths."""
        own = {**vars(self), "options": vars(self.options), "clock": vars(self.clock)}
        return own | {
            "texts": [Path(text).name for text in self.texts],
            "evict_by": self.evict_by and Path(self.evict_by).name,
            "play": self.play and Path(self.play).stem,
        }


_LEAST = {
    "count": 1, "length": 2, "slice_count": 1, "multiple": 1, "combined": 0, "episodes": 1, "calls": 1,
    "timed_calls": 1, "rounds": 1, "together": 1, "play_episodes": 1, "play_batch": 1, "play_from": 0, "seed": 0,
}  # fmt: skip
