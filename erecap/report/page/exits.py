"""Early exit in a run: how many tokens left before the last layer, and after which one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from erecap.report.rows import ReplanRow
from erecap.report.stats import mean
from erecap.report.svg import Series, inline, new_axes


def exit_figures(calls: Sequence[ReplanRow]) -> dict[str, Any] | None:
    """Figures of a mode's early exits: `layers` is the histogram; None where it decoded without early exit."""
    if not any(call.exit_bytes or call.exit_layers for call in calls):
        return None
    layers = [layer for call in calls for layer in call.exit_layers]
    tokens = sum(call.plan_tokens for call in calls)
    return {
        "left": len(layers),
        "share": len(layers) / tokens if tokens else None,  # of all tokens of plans
        "mean_layer": mean(layers),
        "skipped_layers": sum(call.exit_skipped_layers for call in calls),
        "differing": sum(call.exit_differing for call in calls),
        "most_bytes": max(call.exit_bytes for call in calls),
        "layers": {str(layer): count for layer, count in sorted(Counter(layers).items())},
    }


def exits_by_layer(summary: dict[str, Any], looks: dict[str, Series]) -> str | None:
    """The histogram of exits: of the tokens that left early, the share that left after each layer, by mode."""
    found = {mode: figures["exits"] for mode, figures in summary["modes"].items() if figures["exits"]}
    found = {mode: exits for mode, exits in found.items() if exits["left"]}
    if not found:
        return None
    figure, axes = new_axes()
    width = 0.8 / len(found)
    for number, (mode, exits) in enumerate(found.items()):
        layers = np.array([int(layer) for layer in exits["layers"]])
        shares = 100 * np.array(list(exits["layers"].values())) / exits["left"]
        place = layers + (number - (len(found) - 1) / 2) * width
        axes.bar(place, shares, width=width, color=looks[mode].colour)
    axes.set(xlabel="layers run", ylabel="tokens that left, %", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return inline(figure, "exits", "Share of the tokens that left early after each layer, by mode")
