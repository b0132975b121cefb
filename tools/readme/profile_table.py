"""Tables and plots of the profiles in docs/results/profile.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.bench.profile.table import markdown

PLOTS = Path("docs/results")


def profile_table(results: dict[str, Any]) -> str:
    """Markdown: the figure with a target, then each part's table and plots; {} before the first measurement."""
    if not results:
        return "`make profile`: not measured yet."
    lines = []
    for row in results["rows"]:
        word = "" if row["holds"] else " **short**"
        lines += [f"**{row['id']}**, target {row['target']}: {row['measured']:g}{word} ({row['note']}).", ""]
    for key, part in results["parts"].items():
        lines += [markdown([part]), ""]
        for name in (f"profile-{key}.svg", f"profile-{key}-heat.svg"):
            if (PLOTS / name).exists():
                lines += [f"![{name.removesuffix('.svg')}](results/{name})", ""]
    return "\n".join(lines).rstrip("\n")
