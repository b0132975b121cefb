"""Observations of an environment, checked once when they arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erecap.context.records import Situation
from erecap.errors import GameError
from erecap.protocols import FloorMap

_REQUIRED = (
    "goal",
    "skills",
    "templates",
    "entities",
    "subject",
    "failed",
    "failure",
    "events",
    "success",
    "progress",
    "path_length",
    "expert_path_length",
    "expert_steps",
    "path_unit",
)
_NUMBERS = ("progress", "path_length", "expert_path_length", "expert_steps")
_CLOCK = ("seconds", "waited")  # not every environment has one


@dataclass(frozen=True)
class Observed:
    """One observation with the parts of `StepInfo` that the loop uses."""

    text: str
    goal: str
    situation: Situation
    subject: str
    failed: bool
    failure: str
    events: list[str]
    success: bool
    out_of_time: bool
    progress: float
    path_length: float
    expert_path_length: float
    expert_steps: int
    path_unit: str
    measures: dict[str, float]
    floor_map: FloorMap | None = None
    trail: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    seconds: float | None = None  # simulated, of environments with a clock
    waited: float | None = None

    @classmethod
    def read(cls, text: str, info: Mapping[str, Any]) -> Observed:
        """Check the result of `reset` or `step`.

        Raises:
            GameError: `info` lacks a key of `StepInfo`, the goal is empty, or a number is negative or not
                finite.
        """
        missing = [key for key in _REQUIRED if key not in info]
        if missing:
            raise GameError(f"the environment's info lacks {', '.join(missing)}")
        if not clean(info["goal"]).strip():
            raise GameError("the episode has an empty goal; a planner needs one in words")
        for key in (*_NUMBERS, *(key for key in _CLOCK if key in info)):
            if not math.isfinite(info[key]) or info[key] < 0:
                raise GameError(f"the environment's {key} is {info[key]}; allowed: 0 or more, finite")
        return cls(
            text=clean(text),
            goal=clean(info["goal"]),
            situation=Situation.from_info(info),
            subject=clean(info["subject"]),
            failed=bool(info["failed"]),
            failure=clean(info["failure"]),
            events=[clean(event) for event in info["events"]],
            success=bool(info["success"]),
            out_of_time=bool(info.get("out_of_time", False)),
            progress=min(1.0, float(info["progress"])),
            path_length=float(info["path_length"]),
            expert_path_length=float(info["expert_path_length"]),
            expert_steps=int(info["expert_steps"]),
            path_unit=str(info["path_unit"]),
            measures=_measures(info.get("measures", {})),
            floor_map=info.get("map"),
            trail={clean(who): _points(passed) for who, passed in info.get("trail", {}).items()},
            constraints=tuple(clean(rule) for rule in info.get("constraints", ())),
            seconds=float(info["seconds"]) if "seconds" in info else None,
            waited=float(info["waited"]) if "waited" in info else None,
        )


def _measures(measures: Mapping[str, Any]) -> dict[str, float]:
    for name, value in measures.items():
        if not math.isfinite(value):
            raise GameError(f"the environment's measure {name} is {value}; allowed: finite numbers")
    return {str(name): round(float(value), 6) for name, value in measures.items()}


def _points(passed: Sequence[Any]) -> list[tuple[float, float]]:
    points = [(round(float(x), 2), round(float(y), 2)) for x, y in passed]
    if not all(math.isfinite(number) for point in points for number in point):
        raise GameError("the environment's trail has a point that is not finite")
    return points


def clean(text: str) -> str:
    """`text` without lone surrogates, which neither UTF-8 files nor tokenizers can hold."""
    return str(text).encode("utf-8", errors="replace").decode("utf-8")
