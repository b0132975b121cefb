"""The tables of the quality comparison for docs/results.md, and the plot of success against the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erecap.bench.plots import standalone
from erecap.budget import budget_order
from erecap.evaluation.figures import BUDGET, CHAIN, TARGETS
from erecap.files import write_atomic
from erecap.report.formats import count, decimal, interval_percent, kv_tokens, percent
from erecap.report.page.summary import RESULT_EPISODES
from erecap.report.svg import FAINT, INK, inline, new_axes, series_of
from erecap.targets import QUALITY_EPISODES

PLOT = "quality-budgets.svg"
ORDER = ("expert", "full", "reuse", "erecap", "recency", "random", "attention", "mask")


def quality_table(results: dict[str, Any]) -> str:
    """Markdown: targets beside what was measured, then success by suite and mode.

    Args:
        results: the content of `quality.json`; an empty dictionary where nothing was measured.
    """
    lines = [
        "`make quality`: every mode plays the same episodes in rooms that were never trained on "
        "([how](quality.md)). Differences are paired, with 95 % bootstrap intervals in brackets; fewer than "
        f"{QUALITY_EPISODES} episodes, where a target says nothing else, are a smoke test, and judge nothing.",
        "",
        "| figure | id | target | measured | n |",
        "|---|---|---|---|---|",
    ]
    found = {row["id"]: row for row in results.get("rows", [])}
    for name, target in TARGETS.items():
        least = "" if target.n == QUALITY_EPISODES else f", n >= {target.n}"
        lines.append(f"| {target.what} | {name} | {target} {target.unit}{least} | {_measured(found.get(name))} |")
    notes = [f"- {row['id']}: {row['note']}." for row in found.values() if row["note"]]
    if notes:
        lines += ["", *notes]
    budgets = results.get("budgets", [])
    # Other budgets are played on fewer episodes, so they stand beside the same episodes of the first one only.
    others = {(CHAIN, row["mode"], row["budget"]) for row in budgets if row["budget"] not in (None, BUDGET)}
    if modes := [g for g in results.get("modes", []) if (g["suite"], g["mode"], g["budget"]) not in others]:
        lines += ["", *_modes(modes)]
    if budgets:
        lines += ["", *_budgets(budgets)]
    for apart in results.get("apart", []):
        listed = [m for m in apart["modes"] if (apart["suite"], m["mode"], m["budget"]) not in others]
        shown = ", ".join(f"`{m['mode']}` {percent(m['sr'], 0)} of {m['n']}" for m in listed)
        lines += [
            "",
            f"In {apart['suite']} {apart['episodes']} episodes outgrew the model's window in some mode ({shown}). "
            "They count above.",
        ]
    return "\n".join(lines)


def _measured(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not measured yet | –"
    word = " smoke" if row["label"] == "smoke" else "" if row["holds"] else " **short**"
    return f"{row['measured']:.4g} ({row['low']:.4g} to {row['high']:.4g}){word} | {row['n']}"


def _modes(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    counted = any("dropping" in group for group in groups)
    lines = [
        "| suite | mode | KV tokens | episodes | SR | 95 % | SPL | steps | tokens at the end | kept |"
        + (" calls that dropped |" if counted else ""),
        "|---|---|---|---|---|---|---|---|---|---|" + ("---|" if counted else ""),
    ]
    for group in sorted(groups, key=lambda g: (g["suite"], place(g["mode"]), budget_order(g["budget"]))):
        share = group["sr"]
        cells = [
            group["suite"],
            f"`{group['mode']}`",
            kv_tokens(group["budget"]),
            group["counted"],
            percent(None if share is None else share["value"]),
            interval_percent(share),
            decimal(group["spl"]),
            decimal(group["steps"], 1),
            count(group["tokens"] or None),
            percent(group["kept_share"], 0),
            *([percent(group.get("dropping"), 0)] if counted else []),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, *uneven(groups)]


def _budgets(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    number = groups[0]["n"]
    what = f"Success on {number} chains against the tokens stored"
    few = "" if number >= RESULT_EPISODES else "; a smoke test"
    counted = any("dropping" in group for group in groups)
    lines = [
        f"{number} chains of {CHAIN} again, the same ones at each budget{few}:",
        "",
        f'<img src="results/{PLOT}" alt="{what}" width="480">',
        "",
        "| mode | KV tokens | SR | 95 % | SPL | steps | kept |" + (" calls that dropped |" if counted else ""),
        "|---|---|---|---|---|---|---|" + ("---|" if counted else ""),
    ]
    for group in sorted(groups, key=lambda g: (place(g["mode"]), budget_order(g["budget"]))):
        share = group["sr"]
        cells = [
            f"`{group['mode']}`",
            kv_tokens(group["budget"]),
            percent(share["value"]),
            interval_percent(share),
            decimal(group["spl"]),
            decimal(group["steps"], 1),
            percent(group["kept_share"], 0),
            *([percent(group.get("dropping"), 0)] if counted else []),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def uneven(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning if some mode has not played all episodes of a suite: rows of its table cannot be compared."""
    waiting = sum(group["waiting"] for group in groups)
    if not waiting and len({group["suite"] for group in groups}) == len({(g["suite"], g["counted"]) for g in groups}):
        return []
    said = (
        "Not all modes have played as many episodes of a suite yet: success over different episodes does not compare, "
        "and only the paired differences do."
    )
    if waiting:
        said += f" A mode's episodes count up to the first one that it lacks; {waiting} rows of later ones wait."
    return ["", said]


def place(mode: str) -> tuple[int, str]:
    """Sort key of modes: first what bounds the others, then ours, then the controls."""
    return (ORDER.index(mode) if mode in ORDER else len(ORDER), mode)


def budget_plot(results: Mapping[str, Any], suite: str = CHAIN) -> str | None:
    """`<svg>`: success against the budget, a line a mode with its 95 % interval; the unpruned planner is dashed.

    Returns:
        None where no mode was played at two budgets. The automatic budget is no number of tokens, and is not drawn.
    """
    groups = results.get("budgets", [])
    within = [group for group in groups if isinstance(group["budget"], int)]
    if not within:
        return None
    figure, axes = new_axes(3.1)
    modes = sorted({group["mode"] for group in within}, key=place)
    looks = series_of(["full", *modes])  # the unpruned planner is neutral
    for nth, mode in enumerate(modes):
        look = looks[mode]
        own = sorted((group for group in within if group["mode"] == mode), key=lambda group: group["budget"])
        middle = [100 * group["sr"]["value"] for group in own]
        below = [100 * (group["sr"]["value"] - group["sr"]["low"]) for group in own]
        above = [100 * (group["sr"]["high"] - group["sr"]["value"]) for group in own]
        across = [group["budget"] * 1.03**nth for group in own]  # beside each other, so that no interval hides one
        axes.errorbar(
            across, middle, [below, above], fmt=look.marker + "-", color=look.colour, lw=1.6, ms=4.5, elinewidth=1.1,
            capsize=2.5, label=mode,
        )  # fmt: skip
    for group in groups:
        if group["budget"] is None:
            axes.axhline(100 * group["sr"]["value"], ls="--", color=looks["full"].colour, lw=1.2, label="unpruned")
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set(xlabel="tokens stored", ylabel="success, %", ylim=(-3, 103), xscale="log")
    budgets = sorted({group["budget"] for group in within})
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7.6, loc="best", labelcolor=INK)
    return inline(figure, "quality-budgets", f"Success on {suite} against the tokens stored, by mode")


def write_budget_plot(path: Path, results: Mapping[str, Any]) -> bool:
    """Write the plot as a file of its own; returns False, and writes nothing, where there is nothing to draw."""
    svg = budget_plot(results)
    if svg is not None:
        write_atomic(path, standalone(svg))
    return svg is not None
