"""The front of layer plans on a tiny model with a planted useless block: measured, resumed, proposed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.bench.layer_clock import LayerClock
from erecap.errors import ConfigError
from erecap.evaluation.layer_front.front import Place, knee, pareto
from erecap.evaluation.layer_front.plans import SEARCHES
from erecap.evaluation.layer_front.settings import FrontSettings
from tests.layers.search_models import LATENCIES
from tests.tuning.histories import write


def test_the_front_is_what_nothing_beats_and_the_knee_lies_above_the_line() -> None:
    places = [Place("dense", 1.0, 1.0), Place("a", 1.1, 0.99), Place("b", 1.05, 0.98), Place("c", 1.2, 0.97)]
    places += [Place("d", 1.3, 0.6), Place("same", 1.1, 0.99)]
    front = pareto(places)
    assert [place.name for place in front] == ["dense", "a", "c", "d"]
    # From dense to d, c is two thirds of the way in speed for 3 of 40 points.
    assert knee(front, 0.0).name == "c" and knee(front, 0.98).name == "dense"
    assert knee(front, 0.97).name == "a" or knee(front, 0.97).name == "c"
    assert knee([Place("dense", 1.0, 1.0), Place("x", 1.1, 0.5), Place("y", 1.3, 0.4)], 0.0).name == "dense"
    assert knee([Place("x", 1.1, 0.5)], 0.9) is None
    assert pareto([Place("dense", 1.0, 1.0), Place("slow", 0.9, 0.5)]) == [Place("dense", 1.0, 1.0)]


SMALL: dict[str, Any] = {
    "methods": ("sleb", "random"), "speed_ups": (1.1, 1.2), "count": 3, "length": 16, "slices": ("channels-0.3",),
    "slice_count": 2, "multiple": 4, "kv_tokens": (64,), "combined": 1, "episodes": 3, "calls": 2, "timed_calls": 2,
    "clock": LayerClock(24, 2, 1), "together": 2, "least": 0.0,
}  # fmt: skip
