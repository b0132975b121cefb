"""Success against the planner's speed: the results of runs against a clock, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.report.formats import count, interval_percent, milliseconds, percent, seconds
from tools.readme.kept_run import read_run

CHARGES = {
    "measured": "the milliseconds that it took",
    "cost-model": "the cost model's milliseconds for the tokens read and decoded",
    "fixed": "the same for every call",
}


def realtime_results(runs: Sequence[Path], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The figures to keep of finished runs against a clock: small, without rows or paths.

    Args:
        before: figures that were kept before; those of another clock, price or scale stay.
    """
    kept = {_setting(run): run for run in [*(before or {}).get("runs", ()), *map(_run, runs)]}
    return {
        "what": "success while the world goes on, against the time that plans are waited for",
        "runs": [kept[setting] for setting in sorted(kept)],
    }


def _setting(run: dict[str, Any]) -> tuple[str, float, str]:
    return run["clock"], run["scale"], run["charge"]


def _run(folder: Path) -> dict[str, Any]:
    head, summary, kept = read_run(folder)
    clock = head["config"]["clock"]
    return {
        "clock": clock["kind"],
        "charge": clock["charge"],
        "scale": clock["scale"],
        "slo_ms": clock["slo_ms"],
        **kept,
        "plans": head["config"]["planner"].get("plans", "model"),
        "modes": {mode: _mode(figures) for mode, figures in summary["modes"].items() if figures["clock"]},
    }


def _mode(figures: dict[str, Any]) -> dict[str, Any]:
    measured = figures["latency"]["total_ms"]
    return {
        "episodes": figures["counted"],
        "sr": figures["sr"],
        "calls": figures["replans"],
        "measured_ms_p50": measured["p50"] if measured else None,
        **figures["clock"],
    }


def realtime_table(results: dict[str, Any]) -> str:
    """Markdown: a row for each clock, scale and mode; a sentence where nothing was measured."""
    if not results:
        return "Not measured yet: `erecap compare realtime`."
    first, plans = results["runs"][0], {run["plans"] for run in results["runs"]}
    whose = (
        "**Plans are the expert's in every mode**; the model reads and decodes them as if they were its own, so only "
        "time differs."
        if plans == {"expert"}
        else "Plans are the model's own."
        if plans == {"model"}
        else "Plans are the expert's or the model's, by run."
    )
    models = dict.fromkeys(f"{run['model']['name']} in {run['model']['dtype']}" for run in results["runs"])
    prices = dict.fromkeys(f"`{run['clock']}`, {CHARGES[run['charge']]}" for run in results["runs"])
    lines = [
        f"`erecap compare realtime`, {' and '.join(models)}, suite {', '.join(first['suites'])}. {whose} *Scale*: "
        f"simulated seconds for a second of the planner. Price of a call: {'; '.join(prices)}. On the clock `wall` "
        "robot and planner really wait. SR with its 95 % interval; fewer than 100 episodes a mode are a smoke test.",
        "",
        "| clock | scale | mode | episodes | SR | interval | lost to the deadline | waited a call, P50 | P95 | "
        "waited an episode | SLO violations |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        for mode, row in run["modes"].items():
            cells = [
                run["clock"],
                f"{run['scale']:g}",
                f"`{mode}`",
                count(row["episodes"]),
                percent(row["sr"]["value"] if row["sr"] else None, 0),
                interval_percent(row["sr"]),
                count(row["late"]),
                milliseconds(row["waited_ms"]["p50"]),
                milliseconds(row["waited_ms"]["p95"]),
                seconds(row["thinking_s"]),
                "–" if row["slo_violations"] is None else f"{row['slo_violations']:,} of {row['judged_calls']:,}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
