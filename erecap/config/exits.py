"""Settings of early exit in decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Scheduling = Literal["two-level", "static", "every"]
MOST_DRAFTS = 8  # a longer chunk is finished by kernels for long reads


@dataclass(frozen=True)
class Exit:
    """Early exit: tokens are named before the last layer, and verified by all layers.

    Either a trained predictor decides where a token is named, or the first `layer` layers name every token that they
    are confident of.

    Raises:
        ValueError: neither or both of these, an unknown schedule, or a value out of range.
    """

    predictor: str | None = None  # name or folder of what `erecap train exit` made
    layer: int | None = None  # layers that draft; `threshold` is the least probability of a drafted token
    threshold: float | None = None  # None: the predictor's own, or 0.8
    schedule: Scheduling = "two-level"  # of a predictor: layers that are looked at
    lossless: bool = True  # verify every token; without it tokens that left early stay, and differing ones are counted
    # Ask the whole head at the exit as well. None: where tokens are not verified.
    check: bool | None = None
    drafts: int = 4  # tokens that leave early before one pass finishes them, at most

    def __post_init__(self) -> None:
        if (self.predictor is None) == (self.layer is None):
            raise ValueError("exit needs a predictor (a folder that `erecap train exit` made) or a layer, and not both")
        if self.schedule not in get_args(Scheduling):
            raise ValueError(f"exit: unknown schedule {self.schedule!r}; allowed: {', '.join(get_args(Scheduling))}")
        if self.layer is not None and (type(self.layer) is not int or self.layer < 1):
            raise ValueError(f"exit: layer is {self.layer!r}; allowed: 1 or more, and fewer than the model has")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"exit: threshold is {self.threshold}; allowed: 0 to 1")
        if type(self.drafts) is not int or not 1 <= self.drafts <= MOST_DRAFTS:
            raise ValueError(f"exit: drafts is {self.drafts!r}; allowed: 1 to {MOST_DRAFTS}")

    @classmethod
    def of(cls, value: Any) -> Exit | None:
        """`value` as settings: None, settings, or the name or folder of a predictor.

        Raises:
            ValueError: anything else.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str) and value:
            return cls(predictor=value)
        raise ValueError(f"exit must be None, an Exit, or the name or folder of a predictor, got {value!r}")

    @property
    def checks(self) -> bool:
        """True if the whole head is asked at the exit."""
        return not self.lossless if self.check is None else self.check

    def parts(self) -> dict[str, Any]:
        """The settings that differ from the usual ones, as a run's configuration states them."""
        usual = {
            "predictor": None, "layer": None, "threshold": None, "schedule": "two-level", "lossless": True,
            "check": None, "drafts": 4,
        }  # fmt: skip
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
