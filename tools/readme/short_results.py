"""Three result lines for README.md: time, success with a long history, success with a short one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erecap.evaluation.figures import BUDGET


def short_results(replan: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    """Markdown: three list items, each with its interval, its n and its baseline.

    Args:
        replan: the content of `replan.json`.
        quality: the content of `quality.json`.
    """
    times = next(row for row in replan["rows"] if (row["id"], row["row"]) == ("R1b", "algorithm"))
    found = {row["id"]: row for row in quality["rows"]}
    chains, control, within = found["Q2-chain-SR"], found["Q3"], found["Q2-in"]
    return "\n".join(
        [
            f"- **Time.** After 7,500 tokens of history, {BUDGET:,} of them stored, a replan is "
            f"{times['measured']:.1f} times as fast as reading everything again ({times['low']:.1f} to "
            f"{times['high']:.1f}, n = {times['n']}).",
            f"- **Success with a long history.** Chains of household goals, {BUDGET:,} tokens stored: "
            f"{_points(chains)} against the unpruned planner, whose chats outgrow the model's window. Against the best "
            f"control at the same budget (recency, random, attention, masked text): {_points(control)}.",
            f"- **Success with a short history.** Chains whose chat would have fitted the window: {_points(within)}. "
            "So the default drops nothing while the history fits.",
        ]
    )


def _points(row: Mapping[str, Any]) -> str:
    """A paired difference in words, such as `+15.8 points (+6.7 to +25.0, n = 120)`."""
    return f"{row['measured']:+.1f} points ({row['low']:+.1f} to {row['high']:+.1f}, n = {row['n']})"
