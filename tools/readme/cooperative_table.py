"""Cooperating planners: the results of runs with several numbers of them, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.bench.plots import standalone
from erecap.report.formats import at, count, decimal, interval_percent, mebibytes, milliseconds, percent
from erecap.report.page.course import RE_READ
from erecap.report.page.team_plots import seconds_by_agents, success_by_agents
from erecap.report.svg import series_of
from tools.readme.kept_run import adapted, read_run

FIGURES = {
    "cooperative-success.svg": "Success rate against the number of planners",
    "cooperative-seconds.svg": "Seconds of a replan against the number of planners",
}  # files beside the results, and what they show


def cooperative_results(runs: Sequence[Path], before: dict[str, Any]) -> dict[str, Any]:
    """The figures to keep of finished runs of cooperating planners: small, without rows or paths.

    Args:
        before: what was kept so far; of it, runs of other commands stay.
    """
    found = []
    for folder in runs:
        head, summary, kept = read_run(folder)
        found.append({"command": _command(head), **kept, "teams": summary["teams"]})
    again = {run["command"] for run in found}
    found += [run for run in before.get("runs", []) if run["command"] not in again]
    return {
        "what": "success and cost of a replan of planners that share one context, by their number",
        "runs": sorted(found, key=lambda run: min((entry["agents"] for entry in run["teams"]), default=0)),
    }


def _command(head: dict[str, Any]) -> str:
    """The command of a run, with what keeps its calls from being timed."""
    batch = head["config"].get("batch", 1)
    return f"erecap compare {head['name']}" + (f" reread=null batch={batch}" if batch > 1 else "")


def cooperative_table(results: dict[str, Any]) -> str:
    """Markdown: a row for each number of planners and mode; a sentence where nothing was measured."""
    if not results:
        return "Not measured yet: `erecap compare cooperative`."
    commands: dict[str, list[str]] = {}  # by what was played
    for run in results["runs"]:
        model = run["model"]
        played = f"({run['date']}; {', '.join(run['suites'])}; {adapted(model)} in {model['dtype']})"
        commands.setdefault(played, []).append(f"`{run['command']}`")
    headed = "; ".join(f"{', '.join(dict.fromkeys(names))} {played}" for played, names in commands.items())
    lines = [
        f"{headed}. *Progress*: the share of the goal that was met, mean; *makespan*: simulated seconds "
        "of the episodes that were won, where the world has a clock. "
        "*Tokens* are read by a replan, mean; `re-read` is the same call on an empty cache, measured on some calls of "
        "an episode; *over re-read* is what a mode takes of its tokens and time on just those calls. Fewer than 100 "
        "episodes a mode are a smoke test.",
        "",
        "| planners | mode | episodes | SR | interval | progress | makespan | waited | conflicts | tokens "
        "| over re-read | replan P50 | over re-read | interval | KV |",
        "|---" * 15 + "|",
    ]
    for run in results["runs"]:
        for own in run["teams"]:
            ratio = own["ms_ratio"]
            cells = [
                str(own["agents"]), f"`{own['mode']}`", count(own["counted"]), percent(at(own["sr"], "value"), 0),
                interval_percent(own["sr"]), percent(own["progress"], 0), decimal(own["seconds"], 0),
                decimal(own["waited"], 0), decimal(own["conflicts"], 1), count(own["tokens"]),
                decimal(at(own["tokens_ratio"], "value"), 3), milliseconds(own["ms"]), decimal(at(ratio, "value"), 3),
                f"{decimal(ratio['low'], 3)}–{decimal(ratio['high'], 3)}" if ratio else "–", mebibytes(own["kv_bytes"]),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"![{label}](results/{name})" for name, label in FIGURES.items())])


def cooperative_figures(results: dict[str, Any]) -> dict[str, str]:
    """SVG files by name: success, and seconds of a replan, against the number of planners; those that can be drawn."""
    figures = [own for run in results["runs"] for own in run["teams"]]
    looks = series_of(list(dict.fromkeys(own["mode"] for own in figures if own["mode"] != RE_READ)))
    drawn = zip(FIGURES, (success_by_agents(figures, looks), seconds_by_agents(figures, looks)), strict=True)
    return {name: standalone(svg) for name, svg in drawn if svg}
