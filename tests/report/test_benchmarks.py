"""The plots of benchmarks: files that stand alone, in the colours of both schemes."""

from __future__ import annotations

import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest

from erecap.bench.plots import latency, write_plots

CALLS = [
    {
        "row": row,
        "length": length,
        "mode": mode,
        "total_ms": ms,
        "min_ms": ms * 0.9,
        "max_ms": ms * 1.1,
        # In the product row the floor is scaled to the passes of each mode.
        "over_floor": factor / (0.4 if row == "algorithm" else 0.3),
    }
    for row in ("algorithm", "product")
    for mode, factor in (("full", 3.0), ("erecap", 0.5), ("floor", 0.4))
    for length in (1000, 4000)
    for ms in (length * factor,)
]
BOUNDS = [
    {
        "length": length,
        "mode": "prune[recency]",
        "speed_up": 2.5,
        "low": 2.4,
        "high": 2.7,
        "flop_ceiling": 2.6,
        "time_ceiling": time,
    }
    for length, time in ((1000, 2.7), (4000, 2.8))
]


def test_plots_stand_alone(tmp_path: Path) -> None:
    stock = {
        "row": "hf",
        "length": 4000,
        "mode": "hf",
        "total_ms": 9e3,
        "min_ms": 8e3,
        "max_ms": 1e4,
        "over_floor": None,
    }
    paths = write_plots(tmp_path / "plots", {"summary": {"calls": [*CALLS, stock], "ceilings": BOUNDS}})
    assert [path.name for path in paths] == ["replan-algorithm.svg", "replan-product.svg", "prefill.svg"]
    texts = {path.stem: path.read_text() for path in paths}
    for path, text in zip(paths, texts.values(), strict=True):
        xml.dom.minidom.parse(str(path))
        assert 'xmlns="http://www.w3.org/2000/svg"' in text and "prefers-color-scheme: dark" in text
        assert "var(--ink)" in text and "#0101" not in text and "#0102" not in text
    assert ">floor<" in texts["replan-algorithm"] and ">stock generate<" not in texts["replan-algorithm"]
    assert ">stock generate<" in texts["replan-product"]
    assert ">FLOP ceiling<" in texts["prefill"] and ">ceiling weighted by time<" in texts["prefill"]


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    untimed = [{**entry, "time_ceiling": None} for entry in BOUNDS]
    calls = [call for call in CALLS if call["row"] == "algorithm" and call["mode"] != "floor"]
    [path] = write_plots(tmp_path, {"summary": {"calls": calls, "ceilings": untimed}})
    assert path.name == "prefill.svg" and "weighted" not in path.read_text()
    assert write_plots(tmp_path, {"summary": {"calls": calls, "ceilings": []}}) == []


def test_the_floor_that_is_drawn_is_that_of_erecap(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[list[float]] = []
    plot = Axes.plot

    def noted(self: Axes, across: list[float], up: list[float], *args: Any, **kwargs: Any) -> Any:
        drawn.extend([up] if kwargs.get("label") == "floor" else [])
        return plot(self, across, up, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", noted)
    for row in ("algorithm", "product"):
        latency([call for call in CALLS if call["row"] == row], row)
    assert drawn == [pytest.approx([0.4, 1.6]), pytest.approx([0.3, 1.2])]
