"""The figure of README.md: seconds of a replanning call against the length of the history, as an SVG.

Drawn as text, so that the same results give the same file whatever is installed. Colours follow the reader's scheme.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIGURE = "replan-time.svg"
WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 232, 44, 46  # margins; the right one holds the names of the lines
GAP = 17  # least distance between two names
NAMES = {"full": "read everything again", "reuse": "keep everything", "erecap": "keep {kv:,} tokens"}
STYLE = """
  svg { background: var(--paper); font: 13px system-ui, sans-serif; --paper: #fff; --ink: #1b1b1f; --rule: #d9d9de }
  svg { --full: #6b6b73; --reuse: #c2570c; --erecap: #0b6e4f }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #16161a; --ink: #ececf0; --rule: #3a3a42; --full: #a5a5ad; --reuse: #f08a3c; --erecap: #3ecf9b }
  }
  text { fill: var(--ink) } .rule { stroke: var(--rule) } .line { fill: none; stroke-width: 2.5 }
  .band { opacity: 0.2; stroke: none }
"""


@dataclass(frozen=True)
class Point:
    """Seconds of the repetitions of one call: median and range."""

    length: int  # tokens of history
    middle: float
    low: float
    high: float
    n: int


def points(raw: Sequence[Mapping[str, Any]], mode: str) -> list[Point]:
    """Medians of a mode by length of history, from the rows of the plain comparison (`algorithm`)."""
    found: dict[int, list[float]] = {}
    for row in raw:
        if row["row"] == "algorithm" and row["mode"] == mode:
            found.setdefault(row["length"], []).append(row["total_ms"] / 1e3)
    return [Point(n, statistics.median(s), min(s), max(s), len(s)) for n, s in sorted(found.items())]


def time_figure(results: Mapping[str, Any]) -> str:
    """The SVG file's text.

    Args:
        results: the content of `replan.json`.
    """
    part = results["parts"]["replan"]
    lines = {mode: points(part["raw"], mode) for mode in NAMES}
    longest = max(point.length for line in lines.values() for point in line)
    slowest = max(point.high for line in lines.values() for point in line)
    top = 5 * (int(slowest / 5) + 1)

    def x(length: float) -> float:
        return LEFT + length / longest * (WIDTH - LEFT - RIGHT)

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - seconds / top * (HEIGHT - TOP - BOTTOM)

    title = "Seconds of one replanning call, by tokens of history"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="22" font-weight="600">{title}</text>',
    ]
    for seconds in range(0, top + 1, 5):
        drawn.append(f'<path class="rule" d="M{LEFT} {y(seconds):.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y(seconds) + 4:.1f}" text-anchor="end">{seconds} s</text>')
    for length in sorted({point.length for line in lines.values() for point in line}):
        drawn.append(f'<text x="{x(length):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{length:,}</text>')
    drawn.append(f'<text x="{LEFT}" y="{HEIGHT - 6}" font-size="11">{_about(results, part, lines)}</text>')
    for mode, line in lines.items():
        there = " ".join(f"{x(p.length):.1f},{y(p.low):.1f}" for p in line)
        back = " ".join(f"{x(p.length):.1f},{y(p.high):.1f}" for p in reversed(line))
        middle = " ".join(f"{x(p.length):.1f},{y(p.middle):.1f}" for p in line)
        drawn.append(f'<polygon class="band" style="fill:var(--{mode})" points="{there} {back}"/>')
        drawn.append(f'<polyline class="line" style="stroke:var(--{mode})" points="{middle}"/>')
    below = float(HEIGHT)
    for mode, line in sorted(lines.items(), key=lambda entry: entry[1][-1].middle):
        below = min(y(line[-1].middle) + 4, below - GAP)
        name = NAMES[mode].format(kv=part["settings"]["kv_tokens"])
        words = f"{line[-1].middle:.1f} s  {name} ({mode})"
        place = f'x="{WIDTH - RIGHT + 10}" y="{below:.1f}"'
        drawn.append(f'<text {place} font-size="12" style="fill:var(--{mode})">{words}</text>')
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _about(results: Mapping[str, Any], part: Mapping[str, Any], lines: Mapping[str, Sequence[Point]]) -> str:
    settings, least = part["settings"], min(point.n for line in lines.values() for point in line)
    return (
        f"{settings['new_tokens']} new and {settings['plan_tokens']} plan tokens; {part['model']['name']}, "
        f"{part['model']['dtype']}, {results['machine']['threads']} CPU threads; median and range of {least}; "
        f"{part['date']}"
    )
