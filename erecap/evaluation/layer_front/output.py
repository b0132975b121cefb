"""Results of a front: JSON, a Markdown table, a plot, and the knee as a profile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from erecap.bench.plots import standalone
from erecap.bench.results import rounded
from erecap.config.run import RunConfig
from erecap.evaluation.layer_front.points import Point
from erecap.evaluation.subjects import DENSE
from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.layers import load_plan, save_plan
from erecap.layers.files import CARD, PLAN
from erecap.report.formats import decimal, percent
from erecap.report.svg import FAINT, INK, MARKERS, SERIES, inline, new_axes, stand_in

FORMAT = "erecap-layer-front-1"
PROFILE = "profile"
COLUMNS = ("", "speed-up of calls", "decode", "prefill", "same tokens", "plans that differ", "plan NLL")


def write_front(folder: Path, result: JsonRow, about: JsonRow, profile: JsonRow | None) -> list[Path]:
    """Write `front.json`, `front.md` and `front.svg`; returns the paths."""
    paths = [folder / f"front.{kind}" for kind in ("json", "md", "svg")]
    write_json(paths[0], {"format": FORMAT, **about, **rounded(result), "profile": profile})
    lines = ["# Front of layer plans", "", f"`{about['command']}`, {about['date']}.", ""]
    write_atomic(paths[1], "\n".join([*lines, front_table(result), "", *proposal(result, profile)]) + "\n")
    write_atomic(paths[2], standalone(front_plot(result)))
    return paths


def front_table(result: Mapping[str, Any]) -> str:
    """Markdown: a row a point, those of the front marked; success and perplexity where they were measured."""
    points = result["points"]
    has = {
        "perplexity": any("perplexity" in point["figures"] for point in points),
        "success": any("success" in point for point in points),
    }
    columns = [*COLUMNS, *(name for name, there in has.items() if there), "front"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for point in sorted(points, key=lambda one: (one["name"] != DENSE, one["speed_up"]["value"])):
        cells = [f"`{point['name']}`", _speed(point["speed_up"]), *(_speed(_clock(point, p)) for p in _PHASES)]
        cells += [_figure(point, "same tokens", " %", 1), _figure(point, "plans that differ", " %", 1)]
        cells += [_figure(point, "plan NLL", "", 3)]
        cells += [_figure(point, "perplexity", "", 2)] if has["perplexity"] else []
        cells += [_success(point.get("success"))] if has["success"] else []
        cells += ["knee" if point["name"] == result["knee"] else "*" if point["front"] else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_PHASES = ("decode", "prefill")


def _clock(point: Mapping[str, Any], phase: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (point.get("clock") or {}).get(phase)
    return found


def _speed(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    if not figure["n"]:
        return "1"
    return f"{figure['value']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _figure(point: Mapping[str, Any], name: str, unit: str, digits: int) -> str:
    figure = point["figures"].get(name)
    if figure is None or figure["value"] is None:
        return "–"
    return f"{figure['value']:.{digits}f}{unit}"


def _success(found: Mapping[str, Any] | None) -> str:
    if found is None or found["sr"] is None:
        return "–"
    other = found["against_dense"]
    beside = "" if other is None else f", {decimal(other['value'], 1)} ({other['low']:.1f} to {other['high']:.1f})"
    return f"{percent(found['sr']['value'], 1)} of {found['n']}{beside}"


def proposal(result: Mapping[str, Any], profile: Mapping[str, Any] | None) -> list[str]:
    """The knee in words, with the lines of a run's configuration."""
    least, by = result["settings"]["least"], result["settings"]["by"]
    if profile is None:
        return [f"No point keeps {100 * least:g} % of the {by}: nothing is proposed."]
    point = next(one for one in result["points"] if one["name"] == result["knee"])
    kept = f"{100 * point['agreement']:.1f} % of the {by} stay, calls are {point['speed_up']['value']:.2f}x as fast"
    words = [f"Proposed: `{point['name']}`; {kept}.", ""]
    if profile["plan"] is None:
        words[0] += " No layer plan pays beside it."
    return [*words, "```yaml", *str(profile["yaml"]).splitlines(), "```"]


def propose(folder: Path, point: Point, row: JsonRow, model: Mapping[str, Any], evict_by: str | None) -> JsonRow:
    """Write the profile of a point: its layer plan, if it has one, and the lines of a run's configuration.

    Args:
        row: of the point, as `Front.draw` gives it.
        model: `model`, `adapter` and the like, as the configuration names them.

    Returns:
        `name`, `plan` (folder; None without a plan) and `yaml`.
    """
    plan = None
    for name in (PLAN, CARD):  # of an earlier call, which may have proposed another one
        (folder / PROFILE / name).unlink(missing_ok=True)
    if point.candidate is not None:
        figures = {name: one["value"] for name, one in row["figures"].items()}
        test = {"calls_speed_up": row["speed_up"]["value"], "episodes": len(row["episodes"]), **figures}
        whole = load_plan(point.candidate.folder)
        plan = folder / PROFILE
        save_plan(plan, replace(whole, test={key: value for key, value in test.items() if value is not None}))
    mode = {"name": "tuned", **point.parts(evict_by, None if plan is None else str(plan))}
    stated = {key: value for key, value in model.items() if key in ("model", "adapter") and value is not None}
    lines = [*(f"{key}: {json.dumps(value)}" for key, value in stated.items())]
    lines.append(f"modes: [reuse, {json.dumps(mode)}]")
    text = "\n".join(lines)
    RunConfig.model_validate({"name": "tuned", "suites": ["any"], **yaml.safe_load(text)})
    write_atomic(folder / f"{PROFILE}.yaml", text + "\n")
    return {"name": point.name, "plan": None if plan is None else plan.name, "yaml": text}


def front_plot(result: Mapping[str, Any]) -> str:
    """`<svg>`: agreement against the measured speed-up of calls, a colour a method; the front as steps, the knee."""
    points, by = result["points"], result["settings"]["by"]
    figure, axes = new_axes(3.4)
    for number, method in enumerate(dict.fromkeys(point["method"] for point in points)):
        own = [point for point in points if point["method"] == method]
        across, up = _across(own)
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(across, up, marker, color=stand_in(number % SERIES), ms=4, label=method)
    front = [point for point in points if point["front"]]
    across, up = _across(sorted(front, key=lambda point: point["speed_up"]["value"]))
    axes.plot(across, up, drawstyle="steps-pre", color=INK, lw=1.0, label="front")
    chosen = [point for point in points if point["name"] == result["knee"]]
    axes.plot(*_across(chosen), "o", color=INK, ms=10, mfc="none", label="knee")
    axes.axhline(100 * result["settings"]["least"], ls=":", color=FAINT, lw=1.0)
    unit = "plan tokens" if by == "tokens" else "plans"
    axes.set(xlabel="speed-up of planning calls, measured", ylabel=f"{unit} as the dense planner's, %")
    axes.legend(frameon=False, fontsize=7.2, loc="best", labelcolor=INK)
    return inline(figure, "layer-front", f"Share of {unit} that stay against the speed-up of planning calls")


def _across(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [point["speed_up"]["value"] for point in points], [100 * point["agreement"] for point in points]
