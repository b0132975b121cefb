"""Results of an evaluation: JSON, a table in the terminal, a plot of the figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.bench.plots import standalone
from erecap.evaluation.comparison import Measure, label
from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.report.formats import percent
from erecap.report.svg import INK, SERIES, inline, new_panels, stand_in

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "erecap-evaluation-1"
MOST_PANELS = 6
FACTOR_DIGITS = 3
CONTROLS = ("recency", "random")


def write_results(folder: Path, kind: str, content: JsonRow, measures: Sequence[Measure]) -> list[Path]:
    """Write `KIND.json` and `KIND.svg`; returns the paths."""
    paths = [folder / f"{kind}.json", folder / f"{kind}.svg"]
    about = {
        measure.name: {
            "unit": measure.unit,
            "better": measure.better,
            "difference": "factor" if measure.exponential else "difference",
        }
        for measure in measures
    }
    write_json(paths[0], {"format": FORMAT, "kind": kind, **content, "measures": about})
    write_atomic(paths[1], standalone(plot(kind, content["subjects"], measures)))
    return paths


def table(subjects: Sequence[JsonRow], measures: Sequence[Measure]) -> Table:
    """A row for each subject and measure: the figure, and what it is against the dense model."""
    from rich.table import Table
    from rich.text import Text

    grid = Table("", "measure", "value", "95 %", "against dense", "95 %", "n", "kept", box=None, padding=(0, 2, 0, 0))
    for subject in subjects:
        first = True
        for measure in measures:
            figure = subject["figures"].get(measure.name)
            if figure is None:
                continue
            other = figure.get("against_dense")
            grid.add_row(
                Text(subject["name"] if first else "", style="bold"),
                Text(measure.name),
                _value(figure["value"], measure, unit=True),
                _ends(figure, measure),
                _difference(other, measure),
                "" if other is None else _ends(other, measure, of_difference=True),
                f"{figure['n']:,}" + (" smoke" if figure["label"] == "smoke" else ""),
                percent(subject["kept"], 0) if first and subject["kept"] is not None else "",
            )
            first = False
    return grid


def _value(value: float | None, measure: Measure, unit: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:,.{measure.digits}f}" + (f" {measure.unit}" if unit and measure.unit else "")


def _ends(figure: Mapping[str, Any], measure: Measure, of_difference: bool = False) -> str:
    if figure["low"] is None:
        return "–"
    factor = of_difference and measure.exponential
    digits, sign = (FACTOR_DIGITS if factor else measure.digits), "+" if of_difference and not factor else ""
    return f"{figure['low']:{sign},.{digits}f} to {figure['high']:{sign},.{digits}f}"


def _difference(other: Mapping[str, Any] | None, measure: Measure) -> str:
    if other is None or other["value"] is None:
        return ""
    if measure.exponential:
        return f"{other['value']:.{FACTOR_DIGITS}f}x"
    return f"{other['value']:+,.{measure.digits}f}"


def notes(subjects: Sequence[JsonRow]) -> list[str]:
    """Warnings that belong to the figures."""
    found = []
    least = min(figure["n"] for subject in subjects for figure in subject["figures"].values())
    if label(least) == "smoke":
        found.append(f"n = {least}: a smoke test; it shows that things work and ranks nothing")
    changes = [subject["change"] for subject in subjects]
    by = [(rankings(change), change.get("kv_tokens"), change.get("keep")) for change in changes]
    for ranks, *budget in by:
        beside = [other for other, *same in by if same == budget and set(other) <= set(CONTROLS)]
        lacking = [one for one in CONTROLS if not any(one in other for other in beside)]
        if not set(ranks) <= set(CONTROLS) and (lacking if len(ranks) == 1 else not any(beside)):
            found.append(
                f"no {' and no '.join(lacking)} at the same budget beside it: what a ranking is worth is not shown"
            )
            break
    return found


def rankings(change: Mapping[str, Any]) -> tuple[str, ...]:
    """Rankings by which a subject evicts and prunes; empty: it drops nothing."""
    mode = change["mode"]
    evicts = isinstance(mode.get("kv"), dict) and change.get("kv_tokens") is not None
    found = ((mode["kv"]["evict"] or "recency") if evicts else None, mode.get("prune"))
    return tuple(part for part in found if part is not None)


def plot(kind: str, subjects: Sequence[JsonRow], measures: Sequence[Measure]) -> str:
    """`<svg>`: a panel for each measure, a point with its interval for each subject; dashed: the dense model."""
    drawn = [measure for measure in measures if any(measure.name in subject["figures"] for subject in subjects)][
        :MOST_PANELS
    ]
    figure, panels = new_panels(len(drawn), 0.75 + 0.22 * len(subjects))
    for measure, axes in zip(drawn, panels, strict=True):
        shown = [subject for subject in subjects if measure.name in subject["figures"]]
        for row, subject in enumerate(shown):
            found = subject["figures"][measure.name]
            if found["value"] is None:
                continue
            below, above = found["value"] - found["low"], found["high"] - found["value"]
            colour = stand_in(subjects.index(subject) % SERIES)
            axes.errorbar(
                [found["value"]],
                [row],
                xerr=[[below], [above]],
                fmt="o",
                color=colour,
                ms=4.5,
                elinewidth=1.3,
                capsize=2.5,
            )
            if subject is subjects[0]:
                axes.axvline(found["value"], ls="--", color=INK, lw=0.8)
        axes.set_yticks(range(len(shown)), [subject["name"] for subject in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(measure.name + (f", {measure.unit}" if measure.unit else ""))
    return inline(figure, kind, f"{kind}: figures of {len(subjects)} subjects with 95 % intervals")
