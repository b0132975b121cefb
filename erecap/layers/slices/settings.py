"""Settings of a slice: how much goes, by what it is chosen, and how what is left is fitted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from erecap.errors import ConfigError

IMPORTANCE = ("activation", "output", "weights")
SPREAD = ("global", "uniform")
RECONSTRUCT = ("none", "gain", "channel-gain", "least-squares")
TWO_FOUR = ("magnitude", "activation")


@dataclass(frozen=True)
class SliceSettings:
    """One slice of a model.

    Args:
        heads: share of the KV groups that goes, with their query heads; 0: none.
        channels: share of the channels of all MLPs that goes; 0: none.
        importance: `activation`: mean absolute activation. `output`: size of what a part adds, over that of the hidden
            state that it is added to. `weights`: norm of its weights, without a text.
        spread: `global`: the least important parts of the whole model go. `uniform`: every layer loses the same share.
        multiple: channels that a layer keeps are a multiple of this.
        reconstruct: fit of the output projection: `none`, one factor (`gain`), one for each output (`channel-gain`), or
            every weight (`least-squares`).
        damping: of least squares, over the mean square of the inputs.
        two_four: zero two of every four weights of the layers' projections, by size (`magnitude`) or by size times
            activation; None: no weight.

    Raises:
        ConfigError: a value that is not allowed, or nothing that goes.
    """

    heads: float = 0.0
    channels: float = 0.0
    importance: str = "activation"
    spread: str = "uniform"
    multiple: int = 32
    reconstruct: str = "none"
    damping: float = 0.01
    two_four: str | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "channels"):
            if not 0 <= getattr(self, name) < 1:  # NaN is no share
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: a share from 0 to below 1")
        for name, allowed in (("importance", IMPORTANCE), ("spread", SPREAD), ("reconstruct", RECONSTRUCT)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: got {getattr(self, name)!r:.60}; allowed: {', '.join(allowed)}")
        if self.two_four is not None and self.two_four not in TWO_FOUR:
            raise ConfigError(f"two-four: got {self.two_four!r:.60}; allowed: {', '.join(TWO_FOUR)}")
        if self.multiple < 1:
            raise ConfigError(f"multiple: got {self.multiple}; allowed: 1 or more")
        if not (self.damping > 0 and math.isfinite(self.damping)):
            raise ConfigError(f"damping: got {self.damping}; allowed: above 0")
        if not (self.heads or self.channels):
            if self.two_four is None:
                raise ConfigError("slice: nothing goes; give heads, channels or two-four")
            if self.reconstruct != "none":
                raise ConfigError(f"reconstruct: {self.reconstruct} fits sliced layers, and no heads or channels go")

    @property
    def needs_text(self) -> bool:
        """True where calibration tokens are read."""
        chooses = (self.heads or self.channels) and self.importance != "weights"
        return bool(chooses or self.reconstruct != "none" or self.two_four == "activation")

    def facts(self) -> dict[str, Any]:
        """The settings as JSON values, for the plan's card."""
        return asdict(self)
