"""The comparison as rich tables for the terminal; fits 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from erecap.report.formats import (
    at,
    count,
    decimal,
    interval_percent,
    interval_points,
    kv_tokens,
    milliseconds,
    percent,
    points,
    seconds,
    times,
)
from erecap.report.load import Run
from erecap.report.page.course import courses
from erecap.report.page.course_chart import course_chart
from erecap.report.page.course_sentences import busy_sentence, course_sentences
from erecap.report.page.headline import Sentence

# What the tables below the headline cannot say; sentences of the other kinds would repeat them.
STYLES = {"label": "bold", "note": "dim"}


def make_table(summary: dict[str, Any], sentences: list[Sentence]) -> RenderableType:
    """The headline, the table of success and the table of cost, one below the other."""
    parts: list[RenderableType] = [Text()]
    # Modes are called prune[...]: plain Text, because markup would swallow the brackets.
    for sentence in sentences:
        if sentence.kind not in STYLES:
            continue
        parts.append(Padding(Text(sentence.text, style=STYLES[sentence.kind]), (0, 1)))
    if any(figures["episodes"] for figures in summary["modes"].values()):
        parts += [Text(), _success(summary)]
        if any(figures["latency"]["total_ms"] for figures in summary["modes"].values()):
            parts += [Text(), _cost(summary)]
        if any(figures["clock"] is not None for figures in summary["modes"].values()):
            parts += [Text(), _clock(summary)]
        if any(figures["kv_tokens"] is not None for figures in summary["modes"].values()):
            parts += [Text(), _kept(summary)]
        if summary["teams"]:
            parts += [Text(), _teams(summary)]
        if any(figures["exits"] is not None for figures in summary["modes"].values()):
            parts += [Text(), _exits(summary)]
    return Group(*parts)


def make_ending(run: Run) -> RenderableType | None:
    """A chart of the longest re-read episode and the sentences on it; None for a run without re-read calls."""
    found = courses(run)
    if not found:
        return None
    parts: list[RenderableType] = [Text()]
    parts += [Text(line) for line in course_chart(found[0])]
    busy = busy_sentence(run)
    if busy is not None:
        parts += [Text(), Text(busy, style="dim")]
    for sentence in course_sentences(run):
        parts += [Text(), Text(sentence)]
    return Group(*parts)


def _success(summary: dict[str, Any]) -> Table:
    base = summary["baseline"]
    table = _table(f"Success ({summary['label']}), with 95 % intervals; ΔSR is against {base}, paired, in points")
    table.add_column("mode", overflow="fold", min_width=16)
    for name in ("n", "SR", "interval", "SPL", "ΔSR", "interval", "err"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, figures in summary["modes"].items():
        paired = summary["paired"].get(mode, {}).get("success")
        table.add_row(
            Text(mode),
            count(figures["counted"]),
            percent(at(figures["sr"], "value")),
            interval_percent(figures["sr"]),
            decimal(figures["spl"]),
            points(at(paired, "value"), unit=False),
            interval_points(paired),
            count(figures["errors"]),
        )
    return table


def _cost(summary: dict[str, Any]) -> Table:
    paired = any(figures["pairs"] for figures in summary["ceiling"].values())  # calls of equal length in two modes
    meaning = f"; prefill = its speed-up over {summary['baseline']} at equal prompt length" if paired else ""
    table = _table(f"Replanning calls{meaning}")
    table.add_column("mode", overflow="fold", min_width=16)
    for name in ("calls", "prompt", "kept", "P50", "P95", "P99", *(("prefill", "ceiling") if paired else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, figures in summary["modes"].items():
        total, ceiling = figures["latency"]["total_ms"], summary["ceiling"].get(mode)
        if not figures["model_calls"]:
            continue
        table.add_row(
            Text(mode),
            count(figures["model_calls"]),
            count(at(figures["tokens"]["prompt"], "p50")),
            percent(figures["tokens"]["kept_share"], 0),
            milliseconds(at(total, "p50")),
            milliseconds(at(total, "p95")),
            milliseconds(at(total, "p99")),
            *((times(at(ceiling, "prefill_speed_up")), times(at(ceiling, "total"))) if paired else ()),
            style="dim" if mode in summary["faults"] else None,
        )
    return table


def _exits(summary: dict[str, Any]) -> Table:
    table = _table("Early exit; skipped = layers that these tokens had not run when they were named")
    table.add_column("mode", overflow="fold", min_width=16)
    for name in ("left", "of tokens", "mean layer", "skipped", "differing"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, figures in summary["modes"].items():
        exits = figures["exits"]
        if exits is not None:
            table.add_row(
                Text(mode),
                count(exits["left"]),
                percent(exits["share"]),
                decimal(exits["mean_layer"], 1),
                count(exits["skipped_layers"]),
                count(exits["differing"]),
            )
    return table


def _clock(summary: dict[str, Any]) -> Table:
    table = _table("Against the clock, in simulated time; late = lost to the deadline, SLO = calls that violated it")
    table.add_column("mode", overflow="fold", min_width=16)
    for name in ("SR", "late", "P50", "P95", "waited", "episode", "SLO", "deferred", "reused"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, figures in summary["modes"].items():
        clock = figures["clock"]
        if clock is None:
            continue
        table.add_row(
            Text(mode),
            percent(at(figures["sr"], "value"), 0),
            count(clock["late"]),
            milliseconds(clock["waited_ms"]["p50"]),
            milliseconds(clock["waited_ms"]["p95"]),
            seconds(clock["thinking_s"]),
            seconds(clock["seconds"]),
            count(clock["slo_violations"]),
            count(clock["deferred"]),
            count(clock["reused_plans"]),
        )
    return table


def _kept(summary: dict[str, Any]) -> Table:
    table = _table("Budgets; dropped = share of the calls in which part of the history was dropped")
    table.add_column("mode", overflow="fold", min_width=16)
    for name in ("KV tokens", "kept", "dropped"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, figures in summary["modes"].items():
        if figures["model_calls"]:
            kept = percent(figures["tokens"]["kept_share"], 0)
            table.add_row(Text(mode), kv_tokens(figures["kv_tokens"]), kept, percent(figures["dropping"]))
    return table


def _teams(summary: dict[str, Any]) -> Table:
    """Makespan and waiting are means of simulated seconds; tokens and conflicts are means, the time a median."""
    table = _table("Cooperating planners: makespan (won) and waiting in s; tokens read and time of a replan")
    table.add_column("K", justify="right")
    table.add_column("mode", overflow="fold", min_width=12)
    for name in ("n", "SR", "span", "waited", "confl", "tokens", "P50", "time over re-read"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for entry in summary["teams"]:
        size, before = "" if entry["agents"] == before else str(entry["agents"]), entry["agents"]
        table.add_row(
            size,
            Text(entry["mode"]),
            count(entry["counted"]),
            percent(at(entry["sr"], "value"), 0),
            decimal(entry["seconds"], 0),
            decimal(entry["waited"], 0),
            decimal(entry["conflicts"], 1),
            count(entry["tokens"]),
            milliseconds(entry["ms"]),
            decimal(at(entry["ms_ratio"], "value")),
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="italic",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),  # the box puts a space between columns; more would not leave room at 80 columns
    )
