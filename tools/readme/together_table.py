"""Speed and quality in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erecap.evaluation.figures import BUDGET, CHAIN, SINGLE, UNPRUNED
from erecap.evaluation.table import ORDER, place, uneven
from erecap.report.formats import decimal, percent


def together_table(replan: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    """Markdown: time of a replanning call beside success, mode by mode.

    Args:
        replan: the content of `replan.json`; its row *algorithm* counts, for quality is played in that precision, too.
        quality: the content of `quality.json`; an empty dictionary where nothing was measured.
    """
    calls = [call for call in replan["parts"]["replan"]["summary"]["calls"] if call["row"] == "algorithm"]
    seconds = {(call["mode"], call["length"]): call["total_ms"] / 1e3 for call in calls}
    lengths = sorted({call["length"] for call in calls})
    groups = {
        (group["suite"], group["mode"]): group
        for group in quality.get("modes", [])
        if group["budget"] in (None, BUDGET) and group["suite"] in (SINGLE, CHAIN)
    }
    measured = {mode for mode, _ in seconds} & set(ORDER) | {mode for _, mode in groups}
    lines = [
        "Speed and quality side by side: seconds of a replanning call (`make bench`, row *algorithm*) after a history "
        f"of so many tokens, and success (`make quality`) at {BUDGET:,} tokens. `full` gives the answers of `reuse`.",
        "",
        "| mode | " + " | ".join(f"{length:,}" for length in lengths) + " | SR single | SPL | SR chains | SPL |",
        "|---|" + "---|" * (len(lengths) + 4),
    ]
    for mode in sorted(measured, key=place):
        cells = [decimal(seconds.get((mode, length))) for length in lengths]
        for suite in (SINGLE, CHAIN):
            group = groups.get((suite, UNPRUNED if mode == "full" else mode))
            share = group["sr"] if group else None
            success = f"{percent(share['value'])} of {group['counted']}" if group and share else percent(None)
            cells += [success, decimal(group["spl"] if group else None)]
        lines.append("| " + " | ".join([f"`{mode}`", *map(str, cells)]) + " |")
    return "\n".join([*lines, *uneven(list(groups.values()))])
