"""Plots of benchmarks as SVG files of their own, legible on light and on dark pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from erecap.files import write_atomic
from erecap.report.svg import FAINT, INK, inline, new_axes, series_of

FLOOR = "floor"
HEIGHT = 3.1


def write_plots(folder: Path, part: Mapping[str, Any]) -> list[Path]:
    """Write the plots of a replan benchmark (a part of `erecap bench`) into `folder`.

    `replan-ROW.svg`: seconds of a call against the length of the history, with the floor; `prefill.svg`: speed-up of
    pruned prefills with their ceilings. What was not measured is not drawn.

    Returns:
        The files written.
    """
    summary, drawn = part["summary"], {}
    for row in dict.fromkeys(entry["row"] for entry in summary["calls"]):
        own = [entry for entry in summary["calls"] if entry["row"] == row]
        if any(entry["mode"] == FLOOR for entry in own):
            stock = [entry for entry in summary["calls"] if entry["row"] == "hf"] if row == "product" else []
            drawn[f"replan-{row}"] = latency([*own, *stock], f"replan-{row}")
    if summary["ceilings"]:
        drawn["prefill"] = speed_ups(summary["ceilings"])
    return [_write(folder / f"{name}.svg", svg) for name, svg in drawn.items()]


def latency(calls: Sequence[Mapping[str, Any]], name: str) -> str:
    """`<svg>`: median seconds with their range against tokens of history, a line a mode; the floor is dashed."""
    figure, axes = new_axes(HEIGHT)
    modes = [mode for mode in dict.fromkeys(call["mode"] for call in calls) if mode != FLOOR]
    looks = series_of(modes)
    for mode in [*modes, FLOOR]:
        own = sorted((call for call in calls if call["mode"] == mode), key=lambda call: call["length"])
        across = [call["length"] for call in own]
        up = [call["total_ms"] / 1e3 for call in own]
        if mode == FLOOR:
            # The floor of `erecap`: with drafts it is scaled to that call's passes, and its own text has others.
            ours = {call["length"]: call for call in calls if call["mode"] == "erecap" and call["over_floor"]}
            if all(length in ours for length in across):
                up = [ours[length]["total_ms"] / ours[length]["over_floor"] / 1e3 for length in across]
            axes.plot(across, up, "--", color=INK, lw=1.2, label="floor")
            continue
        look = looks[mode]
        axes.fill_between(
            across,
            [call["min_ms"] / 1e3 for call in own],
            [call["max_ms"] / 1e3 for call in own],
            color=look.colour,
            alpha=0.18,
            lw=0,
        )
        label = "stock generate" if mode == "hf" else mode
        axes.plot(across, up, look.marker + "-", color=look.colour, lw=1.8, ms=4.5, label=label)
    axes.set(xlabel="tokens of history", ylabel="seconds a call", yscale="log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    _legend(axes)
    return inline(figure, name, "Seconds of a replanning call against the length of the history, by mode")


def speed_ups(bounds: Sequence[Mapping[str, Any]]) -> str:
    """`<svg>`: prefill speed-up with its range against tokens, and both ceilings of each mode as plain lines."""
    figure, axes = new_axes(HEIGHT)
    looks = series_of(list(dict.fromkeys(entry["mode"] for entry in bounds)))
    for mode, look in looks.items():
        own = sorted((entry for entry in bounds if entry["mode"] == mode), key=lambda entry: entry["length"])
        across = [entry["length"] for entry in own]
        middle = [entry["speed_up"] for entry in own]
        below = [entry["speed_up"] - entry["low"] for entry in own]
        above = [entry["high"] - entry["speed_up"] for entry in own]
        axes.errorbar(
            across, middle, [below, above], fmt=look.marker + "-", color=look.colour, lw=1.8, ms=4.5, label=mode
        )
        axes.plot(
            across, [entry["flop_ceiling"] for entry in own], "--", color=look.colour, lw=1.2, label="FLOP ceiling"
        )
        if all(entry["time_ceiling"] is not None for entry in own):
            timed = [entry["time_ceiling"] for entry in own]
            axes.plot(across, timed, ":", color=look.colour, lw=1.4, label="ceiling weighted by time")
    axes.axhline(1, color=FAINT, lw=0.8)
    axes.set(xlabel="tokens of history", ylabel="prefill, full over pruned", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(axes)
    return inline(figure, "prefill", "Speed-up of pruned prefills with their ceilings, by tokens of history")


def standalone(svg: str) -> str:
    """An inline `<svg>` of the report as a document of its own: it brings the report's colours for both schemes."""
    css = files("erecap.report.page").joinpath("report.css").read_text("utf-8")
    light = re.search(r":root \{[^}]*\}", css)
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{\s*:root \{[^}]*\}\s*\}", css)
    assert light is not None and dark is not None, "report.css names its colours in :root, once for each scheme"
    style = f"<style>{light[0]}\n{dark[0]}\nsvg {{ background: var(--panel); }}</style>"
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} xmlns="http://www.w3.org/2000/svg">{style}{rest[1:]}\n'


def _legend(axes: Any) -> None:
    legend = axes.legend(frameon=False, fontsize=7.6, loc="best", labelcolor=INK)
    legend.set_zorder(3)


def _write(path: Path, svg: str) -> Path:
    write_atomic(path, standalone(svg))
    return path
