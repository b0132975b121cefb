"""matplotlib figures as inline SVG that takes its colours and font from the page.

Figures are drawn in stand-in colours, and each stand-in is replaced by a CSS variable of `report.css`; so one drawing
serves the light and the dark scheme. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, PAPER = "#010101", "#010102", "#010103"
VARIABLES = {INK: "--ink", FAINT: "--rule", PAPER: "--panel"}
# Colours that readers with any common colour-blindness tell apart (after Okabe and Ito); see report.css. Markers differ
# too. `full` is neutral, as it is what the others are compared with.
SERIES = 7
KNOWN_MODES = {"full": 0, "prune[attention]": 1, "prune[recency]": 2, "prune[random]": 3, "expert": 4}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖")
WIDTH, HEIGHT = 4.3, 2.7  # inches; at 72 points an inch about the width of a phone, so text is legible there
STYLE = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 8.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Series:
    """The style of one mode, in plots and in the page."""

    name: str
    index: int  # which of the colours --c0 .. --c6

    @property
    def colour(self) -> str:
        return stand_in(self.index)

    @property
    def marker(self) -> str:
        return MARKERS[self.index]

    @property
    def glyph(self) -> str:
        return GLYPHS[self.index]


def stand_in(index: int) -> str:
    """The stand-in for the colour `--c{index}`."""
    return f"#0102{index:02x}"


def series_of(modes: list[str]) -> dict[str, Series]:
    """Styles by mode: known modes look the same on every page; others take what is free, then start over."""
    free = [index for index in range(SERIES) if index not in {KNOWN_MODES.get(mode) for mode in modes}]
    looks: dict[str, Series] = {}
    for mode in modes:
        index = KNOWN_MODES[mode] if mode in KNOWN_MODES else free.pop(0) if free else len(looks) % SERIES
        looks[mode] = Series(mode, index)
    return looks


def look_of(name: str, looks: dict[str, Series]) -> Series:
    """The style of a line: a mode's, or a colour that no mode has."""
    used = {look.index for look in looks.values()}
    return looks.get(name) or Series(name, next((i for i in range(SERIES) if i not in used), SERIES - 1))


def spread(heights: Sequence[float], apart: float, highest: float) -> list[float]:
    """Heights for names beside the ends of lines: moved up to be `apart`, and all down if one passes `highest`."""
    found, lowest = [0.0] * len(heights), 0.0
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        found[place] = lowest = max(heights[place], lowest)
        lowest += apart
    over = max(0.0, max(found) - highest)
    return [height - over for height in found]


def new_axes(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, `height` inches high."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
    return figure, axes


def new_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` pairs of axes below each other, each `height` inches high."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height * count))
        panels = list(figure.subplots(count, 1, squeeze=False)[:, 0])
        for axes in panels:
            axes.set_axisbelow(True)
    return figure, panels


def inline(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element: no width of its own, ids that start with `name`, `label` read out aloud."""
    buffer = io.StringIO()
    none: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=none)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    opening = re.search(r'viewBox="[^"]+"', text)
    assert opening is not None, "matplotlib wrote an SVG without a viewBox"
    text = f'<svg {opening[0]} role="img" aria-label="{label}">' + text[text.index(">") + 1 :]
    # Several figures share the page, so their ids must not meet.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("xlink:href", "href")
    for stand, variable in VARIABLES.items() | {(stand_in(i), f"--c{i}") for i in range(SERIES)}:
        text = text.replace(stand, f"var({variable})")
    return text
