"""Results of the tuner: JSON, a Markdown table, a plot of the front."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure

from erecap.bench.results import rounded
from erecap.config.run import RunConfig
from erecap.files import write_atomic, write_json
from erecap.tuning.candidates import words

SHOWN = 15  # rows of the table besides the front
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "stages",
}
SOURCES = {
    "calibration": "from the cost model that `erecap calibrate` fitted on this machine",
    "FLOPs": "from counted FLOPs, as there is no calibration for this model, precision and number of threads",
}


def write_all(folder: Path, result: Mapping[str, Any], about: Mapping[str, Any], yaml_lines: str | None) -> list[Path]:
    """Write `stages.json`, `stages.md` and `stages.svg`; the paths."""
    paths = [folder / f"stages.{kind}" for kind in ("json", "md", "svg")]
    write_json(paths[0], {**about, **rounded({**result}), "yaml": yaml_lines})
    write_atomic(paths[1], markdown(result, about, yaml_lines))
    write_atomic(paths[2], plot(result))
    return paths


def markdown(result: Mapping[str, Any], about: Mapping[str, Any], yaml_lines: str | None) -> str:
    """A page with the choice, the noteworthy candidates, and the measured times."""
    head, candidates = result["head"], result["candidates"]
    times = {tuple(row["stages"]): row for row in (result["timing"] or {"sets": []})["sets"]}
    confirmed = {tuple(row["stages"]): row for row in result["confirmed"] if row["held_out"]}
    lengths = result["lengths"]
    lines = [
        "# Layers that drop tokens",
        "",
        f"`{about['command']}`, {about['date']}. Model {about['model']['name']} ({head['dtype']}), {result['layers']} "
        f"layers; scorer {head['scorer']}, keep {head['keep']:g}; {len(lengths)} planning calls of {min(lengths):,} to "
        f"{max(lengths):,} tokens, {result['plan_tokens']} plan tokens.",
        "",
        f"Speed-up of the prefill: predicted {SOURCES[result['speed_up_from']]}. Agreement: share of plan tokens "
        "that stay the most probable ones, teacher-forced, against the unpruned model. Score: their product. "
        "`*`: no other candidate is both faster and closer.",
        "",
    ]
    if yaml_lines is None:
        lines += ["No candidate agrees as often as was asked for.", ""]
    else:
        lines += ["Chosen:", "", "```yaml", yaml_lines, "```", ""]
    rows = [
        row for place, row in enumerate(candidates) if place < SHOWN or row["pareto"] or row["origin"] == "published"
    ]
    named = {tuple(row["stages"]) for row in rows}
    rows += [row for row in candidates if tuple(row["stages"]) in {*times, *confirmed} - named]
    table = [
        _cells(row, confirmed.get(tuple(row["stages"])), times.get(tuple(row["stages"])))
        for row in sorted(rows, key=lambda row: -row["score"])
    ]
    columns = (
        "stages",
        "",
        "tokens kept",
        "speed-up",
        "agreement",
        "score",
        "agreement, other calls",
        "measured",
        "from",
    )
    lines += _table(columns, table)
    lines += ["", f"{len(rows)} of {len(candidates)} candidates; all are in stages.json."]
    if result["hopeless"]:
        lines.append(f"{result['hopeless']} neighbours were passed over: their speed-up alone is below the best score.")
    if result["timing"]:
        timing = result["timing"]
        lines.append(
            f"Measured: prefill of {timing['tokens']:,} tokens, medians of {timing['repetitions']} in turn with the "
            f"unmodified model ({timing['full_ms']:,.0f} ms), with the range of the ratio."
        )
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], again: Mapping[str, Any] | None, timed: Mapping[str, Any] | None) -> list[str]:
    return [
        words(tuple(row["stages"])),
        "*" if row["pareto"] else "",
        f"{100 * row['mean_kept']:.0f} %",
        f"{row['speed_up']:.2f}",
        f"{100 * row['agreement']:.1f} %",
        f"{row['score']:.2f}",
        f"{100 * again['agreement']:.1f} %" if again else "",
        f"{timed['speed_up']:.2f} ({timed['low']:.2f}–{timed['high']:.2f})" if timed else "",
        row["origin"].split(" in ")[0],
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ends = "|".join("---" if name in ("stages", "from", "") else "---:" for name in columns)
    return [f"| {' | '.join(columns)} |", f"|{ends}|", *(f"| {' | '.join(row)} |" for row in rows)]


def plot(result: Mapping[str, Any]) -> str:
    """Speed-up against agreement as SVG: all candidates, the front as a line, chosen and published set marked."""
    candidates = result["candidates"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.8))
        axes = figure.add_subplot()
        axes.plot(*_points(candidates), "o", color="#9aa0a6", ms=4, mew=0, label="candidates")
        front = sorted((row for row in candidates if row["pareto"]), key=lambda row: row["speed_up"])
        # Steps: between two sets of the front there is none, so whoever wants that speed has to take the faster one.
        axes.plot(*_points(front), "o-", drawstyle="steps-pre", color="#0072b2", ms=5, lw=1.4, label="front")
        known = [row for row in candidates if row["origin"] == "published"]
        if known:
            axes.plot(*_points(known), "s", color="#d55e00", ms=7, mfc="none", mew=1.6, label="published stages")
        chosen = result["chosen"]
        if chosen is not None:
            own = [row for row in candidates if row["stages"] == chosen["stages"]]
            axes.plot(*_points(own), "*", color="#009e73", ms=13, label="chosen")
        axes.set(xlabel="prefill speed-up, predicted", ylabel="plan tokens as unpruned, %")
        axes.legend(frameon=False, loc="best", fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _points(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["speed_up"] for row in rows], [100 * row["agreement"] for row in rows]


def yaml_lines(
    keep: float, scorer: str, stages: Sequence[int], adapter: str | None = None, pruner: str | None = None
) -> str:
    """The lines of a run configuration that prune with `stages`; checked against what a configuration accepts."""
    named = {"adapter": adapter, "pruner": pruner}
    inner = ", ".join(map(str, stages))
    lines = [
        f'modes: [full, "prune[{scorer}]"]',
        f"prune: {{keep: {json.dumps(keep)}, stages: [{inner}]}}",
        *(f"{key}: {json.dumps(value)}" for key, value in named.items() if value is not None),
    ]
    RunConfig.model_validate({"name": "tuned", "suites": ["any"], **yaml.safe_load("\n".join(lines))})
    return "\n".join(lines)
