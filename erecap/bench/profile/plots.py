"""Plots of profiles: curves against length, and a heat map of speed-ups by length and keep ratio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.bench.plots import standalone
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.registries import PRESETS
from erecap.report.svg import FAINT, INK, Series, inline, new_axes, stand_in

CURVE_HEIGHT, CELL_HEIGHT = 3.3, 0.42  # inches
LOOKS = 7
HEAT = stand_in(0)  # one colour, as strong as the speed-up


def write_profile_plots(folder: Path, part: JsonRow, name: str) -> list[Path]:
    """Write `NAME.svg` (curves), and `NAME-heat.svg` where modes with presets were timed beside `full`.

    Returns:
        The files written.
    """
    cells = part["summary"]["cells"]
    drawn = {name: curves(part, name)} if cells else {}
    heated = [cell for cell in cells if cell["preset"] is not None and "speed_up" in cell]
    if heated:
        drawn[f"{name}-heat"] = heat_map(heated, f"{name}-heat")
    paths = []
    for own, svg in drawn.items():
        write_atomic(folder / f"{own}.svg", standalone(svg))
        paths.append(folder / f"{own}.svg")
    return paths


def curves(part: JsonRow, name: str) -> str:
    """`<svg>`: seconds with their range, or peak mebibytes, against tokens; a line a mode and preset."""
    figure, axes = new_axes(CURVE_HEIGHT)
    memory = part["part"] == "memory"
    cells = part["summary"]["cells"]
    lines = list(dict.fromkeys((cell["mode"], cell["preset"]) for cell in cells))
    for number, (mode, preset) in enumerate(lines):
        own = [cell for cell in cells if (cell["mode"], cell["preset"]) == (mode, preset)]
        look = Series(mode, number % LOOKS)
        across = [cell["length"] for cell in own]
        label = mode if preset is None else f"{mode} {preset}"
        if memory:
            up = [sum(cell["peak_bytes"].values()) / 2**20 for cell in own]
        else:
            up = [cell["total_ms"] / 1e3 for cell in own]
            low, high = ([cell[edge] / 1e3 for cell in own] for edge in ("min_ms", "max_ms"))
            axes.fill_between(across, low, high, color=look.colour, alpha=0.18, lw=0)
        style = "--" if mode == "floor" else "-"
        axes.plot(across, up, look.marker + style, color=look.colour, lw=1.6, ms=4.2, label=label)
    unit = "MiB beside the weights" if memory else "seconds"
    axes.set(xlabel="tokens", ylabel=unit, xscale="log", yscale="log")
    lengths = sorted({cell["length"] for cell in cells})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend = axes.legend(frameon=False, fontsize=7.2, loc="best", labelcolor=INK)
    legend.set_zorder(3)
    return inline(figure, name, f"{unit} against tokens, by mode")


def heat_map(cells: Sequence[JsonRow], name: str) -> str:
    """`<svg>`: how many times faster than `full`, lengths across, a row a scorer and keep ratio."""
    lengths = sorted({cell["length"] for cell in cells})
    rows = sorted({(cell["mode"], cell["preset"]) for cell in cells}, key=lambda row: (row[0], -PRESETS[row[1]]))
    found = {(cell["mode"], cell["preset"], cell["length"]): float(cell["speed_up"]) for cell in cells}
    most = max(2.0, *found.values())
    figure, axes = new_axes(1.0 + CELL_HEIGHT * len(rows))
    axes.grid(visible=False)
    for up, (mode, preset) in enumerate(rows):
        for across, length in enumerate(lengths):
            value = found.get((mode, preset, length))
            if value is not None:
                _square(axes, across, up, value, most)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(rows)), [f"{mode} {PRESETS[preset]:g}" for mode, preset in rows])
    axes.set(xlabel="tokens", xlim=(-0.5, len(lengths) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    return inline(figure, name, "Speed-up over full by tokens and keep ratio")


def _square(axes: Any, across: int, up: int, value: float, most: float) -> None:
    """One field of the heat map: the stronger, the faster; slower than `full` is left white with a rim."""
    from matplotlib.patches import Rectangle

    strength = 0.75 * max(0.0, min(1.0, (value - 1) / (most - 1)))
    axes.add_patch(Rectangle((across - 0.5, up - 0.5), 1, 1, facecolor=HEAT, alpha=strength, edgecolor="none"))
    axes.add_patch(Rectangle((across - 0.5, up - 0.5), 1, 1, fill=False, edgecolor=FAINT, lw=0.6))
    axes.text(across, up, f"{value:.2f}", ha="center", va="center", fontsize=8, color=INK)
