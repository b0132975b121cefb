"""Early exit: what of its bound is reached, and the bounds themselves."""

from __future__ import annotations

from typing import Any

from erecap.bench.exits.table import WORDS
from erecap.targets import targets_of
from tools.readme.kept_run import adapted

WHO = {"algorithm": "the planner as it is", "product": "an adapter trained for it"}  # by row


def exits_table(results: dict[str, Any]) -> str:
    """Markdown: X1 beside its target and bound, then the bounds by what looks at a hidden state.

    Args:
        results: the content of `exits.json`; an empty dictionary where nothing was measured.
    """
    lines = [
        "`make exits` ([how](early-exit.md)): decoding with early exit, every token verified, beside plain decoding. "
        "The bound is that of a predictor which is always right, head and looks counted; X1 is what of it is reached.",
        "",
        "| figure | id | target | planner | measured | bound | speed-up |",
        "|---|---|---|---|---|---|---|",
    ]
    found = {(row["id"], row["row"]): row for row in results.get("rows", [])}
    for name, target in targets_of("exits").items():
        for row, who in WHO.items():
            lines.append(f"| {target.what} | {name} | {target} | {who} | {_measured(found.get((name, row)))} |")
    notes = [f"- {row['id']}, {WHO[row['row']]}: {row['note']}." for row in found.values()]
    if notes:
        lines += ["", *notes]
    parts = results.get("parts", {})
    for row, part in parts.items():
        lines += ["", *_bounds(WHO[row], part)]
    if not parts:
        cells = " | –" * 6
        lines += ["", *_heading(""), *(f"| {word} | not measured yet{cells} |" for word in WORDS.values())]
    return "\n".join(lines)


def _heading(layers: str) -> list[str]:
    columns = ("for good", "layers", "one head", "checked", "verified", "verified, for good")
    return [f"| looked at by | mean first layer{layers} | " + " | ".join(columns) + " |", "|---|" + "---|" * 7]


def _measured(row: dict[str, Any] | None) -> str:
    """The last three cells."""
    if row is None:
        return "not measured yet | – | –"
    judged = f", verdict: {row['verdict']}" if row.get("verdict") else "" if row["holds"] else " **short**"
    reached = f"{row['measured']:.4g} ({row['low']:.4g} to {row['high']:.4g}){judged}"
    return f"{reached} | {row['bound']:.2f} | {row['speed_up']:.2f}"


def _bounds(who: str, part: dict[str, Any]) -> list[str]:
    """Layers after which the final token is named, the bounds of one planner, and what it decoded."""
    summary = part["summary"]
    lines = [
        f"Bounds, {who} ({adapted(part['model'])}, {part['model']['dtype']}, {summary['tokens']:,} decoded tokens, "
        f"{part['settings']['kv']:,} stored, {part['date']}): by what stands in for the head between layers.",
        "",
        *_heading(f" of {summary['layers']}"),
    ]
    for head, entry in summary["heads"].items():
        bounds = [f"{entry['bounds'][key]:.2f}" for key in ("layers_only", "one_head", "checked", "verified")]
        cells = [f"{entry['mean_first']:.1f}", f"{entry['mean_stable']:.1f}", *bounds]
        lines.append(f"| {WORDS[head]} | " + " | ".join([*cells, f"{entry['stable_bounds']['verified']:.2f}"]) + " |")
    lines += [
        "",
        "| decoded | answers | plain, tokens/s | with exits, tokens/s | over plain | agrees | left | mean layer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = summary["exit"]
    for source, own in found["sources"].items():
        if own["speed_up"] is None:  # its answers were single tokens
            continue
        plain, early = (f"{1e3 / own['ms_per_token'][way]:.1f}" for way in ("plain", "exit"))
        mean = "–" if own["mean_layer"] is None else f"{own['mean_layer']:.1f}"
        lines.append(
            f"| {source} | {own['n'] // own['rounds']} | {plain} | {early} | {own['speed_up']:.2f} | "
            f"{100 * own['same_tokens']:.1f} % | {100 * own['left_early']:.0f} % | {mean} |"
        )
    left = ", ".join(f"{layer}: {count}" for layer, count in found["exit_layers"].items()) or "none"
    return [*lines, "", f"Tokens that left, by layers run: {left}."]
