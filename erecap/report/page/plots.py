"""The plots of the report. Each takes the run or its figures and returns an `<svg>`, or None where data are missing."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from erecap.report.load import Run
from erecap.report.page.timing import PHASES, timed
from erecap.report.rows import ReplanRow
from erecap.report.svg import FAINT, INK, Series, inline, new_axes, stand_in

MAX_DOTS = 250  # dots drawn for a mode in a scatter; lines are over all calls
FEW_DOTS = 40  # up to this many dots they are drawn larger, as there may be no line
MIN_CALLS = 3  # a median over fewer calls is not drawn
LENGTH_STEPS = 8  # bins of the median over prompt length
PHASE_COLOURS = {"tokenize": 5, "prefill": 1, "prune": 2, "decode": 4, "other": 6}

Looks = dict[str, Series]


def success(summary: dict[str, Any], looks: Looks) -> str | None:
    """Success rate by mode with its 95 % interval, and a small mark for each suite."""
    modes = [mode for mode, figures in summary["modes"].items() if figures["counted"]]
    if not modes:
        return None
    figure, axes = new_axes(0.7 + 0.44 * len(modes))
    for place, mode in enumerate(reversed(modes)):
        rate, colour = summary["modes"][mode]["sr"], looks[mode].colour
        axes.plot([100 * rate["low"], 100 * rate["high"]], [place, place], color=colour, lw=2.2, alpha=0.7)
        axes.plot(100 * rate["value"], place, marker=looks[mode].marker, color=colour, ms=7)
        for suite in summary["suites"].values():
            if suite[mode]["sr"] and len(summary["suites"]) > 1:
                axes.plot(100 * suite[mode]["sr"]["value"], place - 0.2, marker="|", color=colour, ms=6, mew=1.4)
        axes.text(0, place + 0.22, mode, va="bottom", color=INK)
    axes.set(xlim=(-2, 102), ylim=(-0.5, len(modes) - 0.25), yticks=[], xlabel="success rate, %")
    axes.spines["left"].set_visible(False)
    return inline(figure, "success", "Success rate by mode with 95 % intervals")


def phases(summary: dict[str, Any]) -> str | None:
    """Mean time of a call by phase, stacked. Means, because they add up to the mean of the whole."""
    modes = [mode for mode, figures in summary["modes"].items() if figures["latency"]["total_ms"]]
    if not modes:
        return None
    figure, axes = new_axes(0.7 + 0.44 * len(modes))
    for place, mode in enumerate(reversed(modes)):
        left = 0.0
        for phase in PHASES:
            width = summary["modes"][mode]["latency"]["phases"][phase]["mean"] / 1000
            axes.barh(place, width, left=left, height=0.36, color=stand_in(PHASE_COLOURS[phase]))
            left += width
        axes.text(0, place + 0.22, mode, va="bottom", color=INK)
    axes.set(ylim=(-0.4, len(modes) - 0.2), yticks=[], xlabel="seconds a call, mean")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return inline(figure, "phases", "Mean seconds of a replanning call by phase and mode")


def over_length(run: Run, looks: Looks) -> str | None:
    """Time of each call against the length of its prompt, with the median of each mode."""

    def medians(calls: list[ReplanRow]) -> tuple[list[float], list[float]]:
        lengths = np.array([call.prompt_tokens for call in calls])
        totals = np.array([call.total_ms for call in calls])
        edges = np.linspace(shortest, longest + 1, LENGTH_STEPS + 1)
        across, up = [], []
        for low, high in itertools.pairwise(edges):
            inside = (lengths >= low) & (lengths < high)
            if inside.sum() >= MIN_CALLS:
                across.append(float(np.median(lengths[inside])))
                up.append(float(np.median(totals[inside])) / 1000)
        return across, up

    usable = timed(run.replans)
    if not usable:
        return None
    shortest, longest = (bound(call.prompt_tokens for call in usable) for bound in (min, max))
    figure, axes = new_axes()
    for mode, look in looks.items():
        calls = [call for call in usable if call.mode == mode]
        if not calls:
            continue
        shown = calls if len(calls) <= MAX_DOTS else random.Random(run.head.seed).sample(calls, MAX_DOTS)
        axes.plot(
            [call.prompt_tokens for call in shown],
            [call.total_ms / 1000 for call in shown],
            look.marker,
            color=look.colour,
            ms=2.6 if len(calls) > FEW_DOTS else 4.5,
            alpha=0.35 if len(calls) > FEW_DOTS else 0.8,
            mew=0,
        )
        axes.plot(*medians(calls), look.marker + "-", color=look.colour, lw=1.8, ms=4.5)
    axes.set(xlabel="prompt tokens", ylabel="seconds a call", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return inline(figure, "length", "Seconds of a replanning call against prompt tokens, by mode")


def over_episode(run: Run, looks: Looks) -> str | None:
    """Median time of the first, second, ... call of an episode; the band holds the middle half of the calls."""
    usable = timed(run.replans)
    figure, axes = new_axes()
    drawn = False
    for mode, look in looks.items():
        values: dict[int, list[float]] = {}
        for call in usable:
            if call.mode == mode:
                values.setdefault(call.replan, []).append(call.total_ms / 1000)
        numbers = sorted(number for number, found in values.items() if len(found) >= MIN_CALLS)
        if not numbers:
            continue
        drawn = True
        low, middle, high = np.array([np.percentile(values[number], [25, 50, 75]) for number in numbers]).T
        across = [number + 1 for number in numbers]
        axes.fill_between(across, low, high, color=look.colour, alpha=0.15, lw=0)
        axes.plot(across, middle, look.marker + "-", color=look.colour, lw=1.8, ms=4)
    if not drawn:
        return None
    axes.set(xlabel="number of the call within its episode", ylabel="seconds a call", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return inline(figure, "episode", "Seconds of the first, second and later calls of an episode, by mode")


def kept_by_layer(run: Run, looks: Looks) -> str | None:
    """Share of the prompt's tokens that each layer stores: the median over the calls of a mode."""
    figure, axes = new_axes()
    drawn = 0
    for mode, look in looks.items():
        shares = [
            np.array(call.kept_per_layer) / call.prompt_tokens
            for call in run.replans
            if call.mode == mode and call.kept_per_layer and call.prompt_tokens
        ]
        # A controller may have run other layers from call to call; then no curve stands for them.
        if len({len(share) for share in shares}) != 1:
            continue
        middle = 100 * np.median(np.stack(shares), axis=0)
        # Modes with the same schedule coincide: each next line is thinner, so that all show.
        axes.step(range(len(middle)), middle, where="mid", color=look.colour, lw=max(1.2, 6.0 - 1.7 * drawn))
        drawn += 1
    if not drawn:
        return None
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set(xlabel="layer", ylabel="tokens stored, % of prompt", ylim=(0, 105))
    axes.tick_params(colors=INK)
    return inline(figure, "layers", "Share of the prompt's tokens that each layer stores, by mode")
