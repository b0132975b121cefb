"""Engines side by side: figures on the same weights, and success of one policy on several engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.report.formats import interval_percent, percent
from erecap.targets import targets_of
from tools.readme.kept_run import adapted, read_run

ROWS = ("algorithm", "product")
PART = "quality"  # key of success among the parts of `engines.json`


def engine_quality(run: Path) -> dict[str, Any]:
    """The figures to keep of a finished run whose modes differ in their engine: small, without rows or paths.

    Raises:
        ValueError: the run was interrupted.
    """
    head, summary, kept = read_run(run)
    return {
        "command": f"erecap compare {head['name']}",
        **kept,
        "budget": head["config"]["budget"]["kv_tokens"],
        "baseline": summary["baseline"],
        "suites": summary["suites"],
        "paired": summary["paired"],
    }


def engines_table(results: Mapping[str, Any]) -> str:
    """Markdown: figures with their targets, then success by engine. `results` is {} before the first measurement."""
    found = {(row["id"], row["row"]): row for row in results.get("rows", [])}
    lines = [
        "Each figure is a ratio of two sides on one engine, with the same weights and token ids, measured in turn "
        "([how](benchmark-llamacpp.md#one-engine)). In brackets the range of the repetitions.",
        "",
        "| figure | id | target | measured | n | machine | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, target in targets_of("engines").items():
        rows = [found[name, row] for row in ROWS if (name, row) in found] or [None]
        for row in rows:
            lines.append("| " + " | ".join([target.what, name, str(target), *_measured(row)]) + " |")
    notes = [f"- {row['id']}, {row['row']}: {row['note']}." for row in results.get("rows", []) if row.get("note")]
    lines += ["", *notes] if notes else []
    parts = results.get("parts", {})
    lines += _decoders(parts["decoders"]) if "decoders" in parts else []
    lines += _success(parts[PART]) if PART in parts else []
    return "\n".join(lines)


def _measured(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["not measured", "–", "–", "–"]
    word = " **short**" if row["holds"] is False else ""
    text = f"{row['measured']:.4g} ({row['low']:.4g} to {row['high']:.4g}){word}"
    return [text, str(row["n"]), row["machine"], row["date"]]


def _decoders(part: Mapping[str, Any]) -> list[str]:
    """Ways to run one model: milliseconds of its passes beside the errors of its logits."""
    settings = part["settings"]
    whats = list(part["summary"][0]["ms"])
    heads = [f"{settings['new_tokens']} tokens, as a prompt" if what == "prefill" else what for what in whats]
    lines = [
        "",
        f"Ways to run {part['model']['name']} (`make bench-decoders`, {part['date']}, {part['machine']['cpu']}, "
        f"{part['machine']['threads']} threads): milliseconds of a pass of so many tokens behind "
        f"{settings['stored']:,} stored ones, median of {settings['repetitions']}; and the largest error of a logit "
        "over the largest logit, against float64.",
        "",
        "| decoder | " + " | ".join(f"{head} (ms)" for head in heads) + " | error | same first choice |",
        "|---|" + "---|" * (len(whats) + 2),
    ]
    for row in part["summary"]:
        cells = [row["side"], *(f"{row['ms'][what]['median']:.1f}" for what in whats)]
        cells += [f"{row['error']:.1e}", f"{row['agreeing']} of {row['tokens']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _success(part: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        f"Success of one policy ({part['budget']:,} tokens kept) on the engines, the same weights and episodes: "
        f"`make quality-engines`, {part['date']}, {adapted(part['model'])}. A {part['label']} run; difference to "
        f"`{part['baseline']}` in points with its 95 % interval.",
        "",
        "| suite | engine | episodes | success | interval | difference | pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    for suite, modes in part["suites"].items():
        for mode, figures in modes.items():
            paired = part["paired"].get(mode, {}).get("suites", {}).get(suite)
            share = figures["sr"]
            success = [percent(share["value"] if share else None, 0), interval_percent(share)]
            cells = [suite, f"`{mode}`", str(figures["counted"]), *success, *_difference(paired)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _difference(paired: Mapping[str, Any] | None) -> list[str]:
    if paired is None or paired["success"] is None:
        return ["–", "–"]
    value, low, high = (100 * paired["success"][key] for key in ("value", "low", "high"))
    return [f"{value:+.1f} ({low:+.1f} to {high:+.1f})", str(paired["pairs"])]
