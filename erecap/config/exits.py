"""Settings of early exit in decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from erecap.untrusted import parse_json

Scheduling = Literal["two-level", "static", "every"]
MOST_DRAFTS = 8  # a longer chunk is finished by kernels for long reads


@dataclass(frozen=True)
class Exit:
    """Early exit: tokens are named before the last layer, and verified by all layers.

    Either a trained predictor decides where a token is named, or the first `layer` layers name every token that they
    are confident of.

    Raises:
        ValueError: neither or both of these, an unknown schedule, one beside `layer`, or a value of another type or out
            of range.
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
        if self.threshold is not None and not (type(self.threshold) in (int, float) and 0 <= self.threshold <= 1):
            raise ValueError(f"exit: threshold is {self.threshold}; allowed: 0 to 1")
        if self.predictor is not None and not (isinstance(self.predictor, str) and self.predictor):
            raise ValueError(f"exit: predictor is {self.predictor!r}; allowed: the name or folder of a predictor")
        if type(self.drafts) is not int or not 1 <= self.drafts <= MOST_DRAFTS:
            raise ValueError(f"exit: drafts is {self.drafts!r}; allowed: 1 to {MOST_DRAFTS}")
        if type(self.lossless) is not bool:
            raise ValueError(f"exit: lossless is {self.lossless!r}; allowed: true or false")
        if self.check is not None and type(self.check) is not bool:
            raise ValueError(f"exit: check is {self.check!r}; allowed: true, false or null")
        if self.layer is not None and self.schedule != "two-level":
            raise ValueError(f"exit: got schedule {self.schedule!r} beside a layer; allowed: with a predictor")

    @classmethod
    def of(cls, value: Any) -> Exit | None:
        """`value` as settings.

        Args:
            value: None or False: no early exit; settings, a mapping of them as in a run's configuration, or a text: the
                name or folder of a predictor, or settings such as `layer=20,threshold=0.9`.

        Raises:
            ValueError: anything else.
        """
        if value is None or value is False:
            return None
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and "=" in value:
            text = value
            found = [_setting(part) for part in value.split(",")]
            value = dict(found)
            if len(value) < len(found):
                raise ValueError(f"exit: got {text!r}; allowed: each setting once")
        if isinstance(value, Mapping):
            known = [field.name for field in fields(cls)]
            unknown = [name for name in value if name not in known]
            if unknown:
                raise ValueError(f"exit: unknown setting {unknown[0]!r}; allowed: {', '.join(known)}")
            return cls(**value)
        if isinstance(value, str) and value:
            return cls(predictor=value)
        raise ValueError(
            "exit must be None, an Exit, a mapping such as {'layer': 20}, or the name or folder of a predictor, "
            f"got {value!r}"
        )

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


ExitChoice = Exit | Mapping[str, Any] | str | Literal[False] | None  # what `Exit.of` takes


def _setting(text: str) -> tuple[str, Any]:
    """One setting `name=value` of a text, its value read as a number or truth value where it is one."""
    name, mark, value = (part.strip() for part in text.partition("="))
    if not mark or not name or not value:
        raise ValueError(f"exit: got {text.strip()!r}; allowed: settings such as layer=20,threshold=0.9")
    if name == "predictor":
        return name, value
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value
