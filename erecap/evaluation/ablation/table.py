"""The table and the plot of an ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.bench.plots import standalone
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.report.page.summary import RESULT_EPISODES
from erecap.report.svg import FAINT, INK, inline, new_axes, stand_in

if TYPE_CHECKING:
    from rich.table import Table

HEADS = (
    "",
    "instead",
    "seconds a call",
    "over all",
    "prefill",
    "decode",
    "KV MiB",
    "plan agreement",
    "success",
    "minus all",
)
SLOWER, FASTER = stand_in(1), stand_in(2)
BAR = 0.3  # inches


def cells_of(variants: Sequence[JsonRow]) -> list[tuple[str, ...]]:
    """A row a variant, as `HEADS` names its columns; a dash for what was not measured."""
    return [
        (row["variant"], row["what"], _seconds(row["total_ms"]), _ratio(row["over_all"]), _seconds(row["prefill_ms"]),
         _seconds(row["decode_ms"]), "–" if row["kv_bytes"] is None else f"{row['kv_bytes'] / 2**20:.0f}",
         _share(row["agreement"]), _rate(row["success"]), _difference(row["success"]))
        for row in variants
    ]  # fmt: skip


def screen_table(variants: Sequence[JsonRow]) -> Table:
    """The figures without their ranges, for a terminal of 80 columns."""
    from erecap.bench.tables import table_of

    def cell(found: JsonRow | None, text: Callable[[JsonRow], str]) -> str:
        return "–" if found is None else text(found)

    rows = [
        (
            row["variant"],
            _seconds(row["total_ms"]),
            cell(row["over_all"], lambda over: f"{over['value']:.2f}"),
            "–" if row["kv_bytes"] is None else f"{row['kv_bytes'] / 2**20:.0f}",
            cell(row["agreement"], lambda found: f"{100 * found['share']:.1f} %"),
            cell(row["success"], lambda found: f"{100 * found['rate']:.0f} %"),
            cell((row["success"] or {}).get("minus_all"), lambda found: f"{100 * found['value']:+.1f}"),
        )
        for row in variants
    ]
    heads = ("variant", "s a call", "× all", "KV MiB", "agreement", "SR", "minus all")
    return table_of("What each part brings", heads, rows, left=("variant",))


def ablation_table(results: Mapping[str, Any]) -> str:
    """Markdown of a results file; {} before its first measurement."""
    if not results:
        return "`make ablation`: not measured yet."
    rows = cells_of(results["variants"])
    settings = results["settings"]
    played = [row["success"]["episodes"] for row in results["variants"] if row["success"]]
    smoke = " That is a smoke test, and ranks nothing." if played and max(played) < RESULT_EPISODES else ""
    success = (
        f"Success is over {max(played)} episodes, its difference with a 95 % interval.{smoke}"
        if played
        else "Success was not played."
    )
    apart = {step: f"{one['date']}, {one['machine']}" for step, one in results.get("measured", {}).items()}
    once = set(apart.values()) or {f"{results['date']}, {results['machine']}"}
    when = once.pop() if len(once) == 1 else "; ".join(f"{step} {words}" for step, words in apart.items())
    lines = [
        f"`{results['command']}`, {results['model']}, {when}: suites "
        f"{', '.join(settings['suites'])}. Times are medians of calls on the expert's plans, "
        f"{settings['timed_episodes']} episodes a suite. `over all` is the sum of a variant's calls over that of the "
        f"same calls of `all`, in brackets the range of the episodes. {success}",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
    ]
    lines += ["| " + " | ".join((f"`{row[0]}`", *row[1:])) + " |" for row in rows]
    return "\n".join(lines)


def write_ablation_plot(path: Path, variants: Sequence[JsonRow]) -> Path | None:
    """Write bars of each variant's time over that of the whole; None where no times were measured."""
    timed = [row for row in variants if row["over_all"] is not None and row["part"] is not None]
    if not timed:
        return None
    write_atomic(path, standalone(bars(timed, path.stem)))
    return path


def bars(timed: Sequence[JsonRow], name: str) -> str:
    """`<svg>`: a bar a variant, from 1 to its time over that of the whole, with the range of the episodes."""
    figure, axes = new_axes(0.8 + BAR * len(timed))
    for up, row in enumerate(timed):
        over = row["over_all"]
        colour = SLOWER if over["value"] >= 1 else FASTER
        axes.barh(up, over["value"] - 1, left=1, height=0.62, color=colour, alpha=0.75, lw=0)
        axes.plot([over["low"], over["high"]], [up, up], color=INK, lw=1)
        axes.text(max(over["high"], 1) * 1.02, up, f"{over['value']:.2f}", va="center", fontsize=7.6, color=INK)
    axes.axvline(1, color=INK, lw=0.8)
    axes.set_yticks(range(len(timed)), [row["variant"] for row in timed])
    most = max(row["over_all"]["high"] for row in timed)
    least = min(row["over_all"]["low"] for row in timed)
    axes.set(xlabel="time of a call, over that of all parts together", ylim=(len(timed) - 0.5, -0.5))
    axes.set(xlim=(min(0.9, 0.95 * least), max(1.2, 1.2 * most)))
    axes.grid(visible=True, axis="x", color=FAINT)
    axes.grid(visible=False, axis="y")
    return inline(figure, name, "Time of a call without each part, over that with all parts")


def _seconds(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds / 1e3:.2f}"


def _ratio(figure: JsonRow | None) -> str:
    return "–" if figure is None else f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _share(figure: JsonRow | None) -> str:
    return "–" if figure is None else f"{100 * figure['share']:.1f} % of {figure['tokens']:,}"


def _rate(figure: JsonRow | None) -> str:
    return "–" if figure is None else f"{100 * figure['rate']:.0f} % of {figure['episodes']}"


def _difference(figure: JsonRow | None) -> str:
    if figure is None or "minus_all" not in figure:
        return "–"
    found = figure["minus_all"]
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
