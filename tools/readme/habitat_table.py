"""Planning in generated houses of habitat-sim: the results of a run, figure H1, and their table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.bench.results import Figure, result_row
from erecap.report.formats import at, count, decimal, interval_percent, interval_points, milliseconds, percent, points
from erecap.targets import TARGETS
from tools.readme.kept_run import adapted, read_run

UNPRUNED, AUTOMATIC, FIXED = "reuse", "automatic", "erecap-1024"


def habitat_results(folder: Path) -> dict[str, Any]:
    """The figures to keep of a finished run of `erecap compare habitat`: small, without rows or paths.

    Raises:
        ValueError: the run lacks the unpruned mode or the one with the automatic budget.
    """
    head, summary, kept = read_run(folder)
    if summary["baseline"] != UNPRUNED or AUTOMATIC not in summary["paired"]:
        raise ValueError(f"{folder}: H1 compares {AUTOMATIC} with {UNPRUNED}, which must be played first")
    about = {**kept, "command": f"erecap compare {head['name']}"}
    return {
        "what": "success of planning in generated houses of habitat-sim, with and without dropping tokens",
        **about,
        "rows": [_h1(summary, about)],
        "modes": {mode: _mode(mode, figures, summary) for mode, figures in summary["modes"].items()},
        "by_suite": {
            suite: {mode: own | {"measures": _means(summary, suite, mode)} for mode, own in modes.items()}
            for suite, modes in summary["suites"].items()
        },
    }


def _h1(summary: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    success = {mode: own["success"] for mode, own in summary["paired"].items()}
    pairs = summary["paired"][AUTOMATIC]["pairs"]
    value, low, high = (100 * success[AUTOMATIC][key] for key in ("value", "low", "high"))
    figure = Figure(value, low, high, pairs)
    notes = []
    if FIXED in success:
        notes.append(f"with {FIXED.removeprefix('erecap-')} tokens {points(success[FIXED]['value'])}")
        before, after = (summary["modes"][mode]["latency"]["total_ms"] for mode in (UNPRUNED, FIXED))
        if before and after:
            notes.append(f"replan P50 {milliseconds(after['p50'])}, unpruned {milliseconds(before['p50'])}")
    target = TARGETS["H1"]
    holds = target.holds(figure.value) and pairs >= target.n
    return result_row("H1", figure, about, row="algorithm", note="; ".join(notes), holds=holds)


def _mode(mode: str, figures: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    paired = summary["paired"].get(mode)
    return {
        **{key: figures[key] for key in ("counted", "errors", "overflow", "sr", "spl", "replans_per_episode")},
        "kv_tokens": figures["kv_tokens"],
        "dropping": figures["dropping"],
        "kept_p50": figures["tokens"]["kept"]["p50"] if figures["tokens"]["kept"] else None,
        "total_ms": figures["latency"]["total_ms"],
        "success_difference": paired["success"] if paired else None,
    }


def _means(summary: dict[str, Any], suite: str, mode: str) -> dict[str, float]:
    return {name: own["mean"] for name, own in summary["measures"].get(suite, {}).get(mode, {}).items()}


def habitat_table(results: dict[str, Any]) -> str:
    """Markdown: H1, then a row for each mode, then success by suite; a sentence where nothing was measured."""
    if not results:
        return "Not measured yet: `erecap compare habitat`."
    row, model = results["rows"][0], results["model"]
    few = row["n"] < TARGETS["H1"].n
    word = "holds" if row["holds"] else "too few episodes to judge" if few else "**short**"
    lines = [
        f"`{results['command']}`, {results['date']}, {adapted(model)} in {model['dtype']}, suites "
        f"{', '.join(results['suites'])}. **H1**, success with the automatic budget minus unpruned: "
        f"{row['measured']:+g} points ({row['low']:+g} to {row['high']:+g}, n = {row['n']}; wanted {row['target']}): "
        f"{word}.",
        "",
        "| mode | episodes | SR | interval | SR against `reuse` | interval | SPL | calls that dropped | stored, P50 | "
        "replan P50 | P95 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for mode, own in results["modes"].items():
        difference, latency = own["success_difference"], own["total_ms"] or {}
        cells = [
            f"`{mode}`", count(own["counted"]), percent(at(own["sr"], "value"), 0), interval_percent(own["sr"]),
            points(difference["value"]) if difference else "–", interval_points(difference), decimal(own["spl"]),
            percent(own["dropping"]), count(own["kept_p50"]), milliseconds(latency.get("p50")),
            milliseconds(latency.get("p95")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    names = sorted(
        {name for modes in results["by_suite"].values() for own in modes.values() for name in own["measures"]}
    )
    lines += ["", "| suite | mode | SR | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for suite, modes in results["by_suite"].items():
        for mode, own in modes.items():
            measured = [decimal(own["measures"].get(name)) for name in names]
            cells = [suite, f"`{mode}`", percent(at(own["sr"], "value"), 0), *measured]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
