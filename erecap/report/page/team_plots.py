"""Figures of cooperating planners: success and seconds of a replan against their number, a line a mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from erecap.report.page.course import RE_READ
from erecap.report.svg import INK, STYLE, Series, inline, look_of, new_axes, spread

ROOM = 0.5  # share of the width, right of the last number, for the names of the lines
APART = 0.085  # least distance of two names, as a share of the height


def seconds_by_agents(figures: Sequence[dict[str, Any]], looks: dict[str, Series]) -> str:
    """Median seconds of a replan as an `<svg>`; "" where no call was timed."""
    return _by_agents(figures, looks, lambda entry: _scaled(entry["ms"]), "seconds a replan", "team-seconds")


def success_by_agents(figures: Sequence[dict[str, Any]], looks: dict[str, Series]) -> str:
    """Success rates as an `<svg>`; "" where no episode was counted."""
    modes = [entry for entry in figures if entry["mode"] != RE_READ]  # it has no success of its own
    return _by_agents(modes, looks, _percent, "success rate, %", "team-success", top=100.0)


def _percent(entry: dict[str, Any]) -> float | None:
    return None if entry["sr"] is None else 100.0 * entry["sr"]["value"]


def _scaled(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _by_agents(
    figures: Sequence[dict[str, Any]],
    looks: dict[str, Series],
    value: Callable[[dict[str, Any]], float | None],
    label: str,
    name: str,
    *,
    top: float | None = None,  # None: the highest value
) -> str:
    shown = [(entry, value(entry)) for entry in figures]
    lines: dict[str, list[tuple[int, float]]] = {}
    for entry, height in shown:
        if height is not None:
            lines.setdefault(entry["mode"], []).append((entry["agents"], height))
    if not lines:
        return ""
    sizes = sorted({size for points in lines.values() for size, _ in points})
    highest = top or max(height for points in lines.values() for _, height in points) or 1.0
    figure, axes = new_axes()
    for mode, points in lines.items():
        look = look_of(mode, looks)
        places = [sizes.index(size) for size, _ in points]
        axes.plot(places, [height for _, height in points], look.marker + "-", color=look.colour, lw=1.6, ms=5)
    right = max(1, len(sizes) - 1)
    heights = spread([points[-1][1] for points in lines.values()], APART * highest, highest * 1.05)
    for (mode, points), height in zip(lines.items(), heights, strict=True):
        look = look_of(mode, looks)
        axes.annotate(
            f"{look.glyph} {mode}",
            (sizes.index(points[-1][0]), points[-1][1]),
            (right * 1.06, height),
            va="center",
            color=look.colour,
            fontsize=STYLE["font.size"],
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": look.colour, "lw": 0.5, "alpha": 0.5},
        )
    axes.set(xlim=(-0.1 * right, right * (1 + ROOM)), ylim=(0, highest * 1.1), xlabel="planners", ylabel=label)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.tick_params(colors=INK)
    return inline(figure, name, f"{label} against the number of cooperating planners, a line a mode")
