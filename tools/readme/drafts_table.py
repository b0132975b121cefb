"""Ways to draft side by side."""

from __future__ import annotations

from typing import Any

from erecap.registries import DRAFTS
from tools.readme.kept_run import adapted


def drafts_table(results: dict[str, Any]) -> str:
    """Markdown: accepted tokens, tokens a pass, time and agreement of each way, by scene and weights.

    Args:
        results: the content of `replan.json`, whose part `drafts` may not be measured yet.
    """
    told = "`make exits` ([how](drafts.md)): the same answers in all ways, in turn, each from the same state."
    head = [
        "",
        "| answers | weights | way | accepted of drafted | tokens a pass | ms a token | over plain | agrees |",
        "|---|---|---|---|---|---|---|---|",
    ]
    part = results.get("parts", {}).get("drafts")
    if part is None:
        return "\n".join([told, *head, *(f"| not measured yet | – | `{way}` | – | – | – | – | – |" for way in DRAFTS)])
    lines = [f"{told} {adapted(part['model'])} in {part['model']['dtype']}, {part['date']}.", *head]
    for row in part["summary"]["ways"]:
        cells = [
            f"{row['answers']}, {row['scene']}",
            row["weights"],
            f"`{row['way']}`",
            _percent(row["accepted_of_drafted"]),
            f"{row['tokens_a_pass']:.2f}",
            "–" if row["ms_a_token"] is None else f"{row['ms_a_token']:.1f}",
            f"{row['speed_up']['value']:.2f} ({row['speed_up']['low']:.2f} to {row['speed_up']['high']:.2f})",
            _percent(row["agreement"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
