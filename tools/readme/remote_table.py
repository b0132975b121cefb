"""Table of what shortening does for a remote planner."""

from __future__ import annotations

from typing import Any


def remote_table(results: dict[str, Any]) -> str:
    """Markdown: one row a view. `results` is what `erecap bench remote` wrote; {} before its first measurement."""
    if not results:
        return "`make bench-remote`: not measured yet."
    cache = results["cache"]
    lines = [
        f"`make bench-remote`: {results['conversations']} recorded household chains as a remote planner would have "
        f"been sent them, {results['calls']} calls, at most {results['budget']:,} tokens each, at the prices of "
        f"{results['model']} (a cached prefix is a multiple of {cache['block']} tokens, {cache['least']:,} or more). "
        "A fact is lost where the text no longer holds a name or a place that the expert's next plan rests on.",
        "",
        "| view | prompt tokens | longest | from the cache | $ | $ without cache | calls that lack a fact |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        cells = [
            f"`{row['view']}`",
            f"{row['prompt_tokens']:,}",
            f"{row['longest']:,}",
            f"{row['cached_share']:.0%}",
            f"{row['dollars']:.3f}",
            f"{row['dollars_without_cache']:.3f}",
            f"{row['calls_without_a_fact']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
