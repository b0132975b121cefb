"""The page: everything that a reader needs in one file that loads nothing from anywhere."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from erecap.report import formats
from erecap.report.load import Run
from erecap.report.page import plots
from erecap.report.page.course import courses
from erecap.report.page.course_plots import seconds_by_call, tokens_by_call
from erecap.report.page.course_sentences import busy_sentence, course_sentences, meanings
from erecap.report.page.exits import exits_by_layer
from erecap.report.page.headline import MIN_PAIRS, headline
from erecap.report.page.realtime import success_by_wait
from erecap.report.page.samples import SHADE_NAMES, sample_views
from erecap.report.page.team_plots import seconds_by_agents, success_by_agents
from erecap.report.page.timing import LENGTH_EDGES, PHASES
from erecap.report.svg import Series, series_of

FILTERS = (
    "percent", "points", "times", "count", "decimal", "kv_tokens", "milliseconds", "mebibytes", "plural", "seconds",
)  # fmt: skip


def render_page(run: Run, summary: dict[str, Any]) -> str:
    """The report of `run` as one HTML text. All text that comes from the run is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in (*FILTERS, "interval_percent", "interval_points"):
        environment.filters[name] = getattr(formats, name)
    environment.globals.update(at=formats.at, bin_name=formats.bin_name)
    looks = series_of(run.modes)
    return environment.from_string(_text("report.html.j2")).render(
        run=run.head,
        summary=summary,
        sentences=headline(run, summary),
        course_sentences=course_sentences(run),
        busy=busy_sentence(run),
        courses=course_views(run, looks),
        min_pairs=MIN_PAIRS,
        looks=looks,
        plots={
            name: Markup(svg)
            for name, svg in {
                "success": plots.success(summary, looks),
                "phases": plots.phases(summary),
                "length": plots.over_length(run, looks),
                "episode": plots.over_episode(run, looks),
                "layers": plots.kept_by_layer(run, looks),
                "exits": exits_by_layer(summary, looks),
                "realtime": success_by_wait(summary, looks),
                "team_seconds": seconds_by_agents(summary["teams"], looks),
                "team_success": success_by_agents(summary["teams"], looks),
            }.items()
            if svg
        },
        phases=phases_taken(summary),
        phase_colours=plots.PHASE_COLOURS,
        bins=length_rows(summary),
        samples=sample_views(run),
        shades=SHADE_NAMES,
        setup=setup_rows(run),
        config=json.dumps(run.head.config, indent=2, ensure_ascii=False),
        css=Markup(_text("report.css")),
        script=Markup(_text("report.js")),
    )


def course_views(run: Run, looks: dict[str, Series]) -> list[dict[str, Any]]:
    """The course of an episode of each suite that was re-read: what it is, and its two figures."""
    return [
        {
            "suite": course.suite,
            "episode": course.episode,
            "ways": meanings(run, course),
            "seconds": Markup(seconds_by_call(course, looks, f"seconds{number}")),
            "tokens": Markup(tokens_by_call(course, looks, f"tokens{number}")),
        }
        for number, course in enumerate(courses(run))
    ]


def phases_taken(summary: dict[str, Any]) -> list[str]:
    """The phases that took time in some mode."""
    latencies = [figures["latency"] for figures in summary["modes"].values() if figures["latency"]["total_ms"]]
    return [phase for phase in PHASES if any(latency["phases"][phase]["mean"] for latency in latencies)]


def length_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of latency by prompt length: a range, and the figures of each mode that has calls in it."""
    rows = []
    for low in LENGTH_EDGES:
        cells = {
            mode: entry
            for mode, figures in summary["modes"].items()
            for entry in figures["latency"]["by_length"]
            if entry["from"] == low
        }
        if cells:
            rows.append({"name": formats.bin_name(low, next(iter(cells.values()))["below"]), "cells": cells})
    return rows


def setup_rows(run: Run) -> list[tuple[str, str]]:
    """The setup of a run, its model and its machine: names and values for a two-column table."""
    head = run.head
    rows = [("run", head.name), ("status", head.status), ("created", head.created), ("seed", str(head.seed))]
    if "name" in head.config:
        rows.append(("command", f"erecap compare {head.config['name']} (with the configuration below)"))
    if head.model:
        model = head.model
        rows.append(("model", f"{model.name}, {model.dtype}, {model.parameters:,} parameters"))
        rows.append(
            (
                "model shape",
                f"{model.layers} layers, hidden {model.hidden_size}, {model.heads} heads, {model.kv_heads} KV heads",
            )
        )
        rows.append(("weights hash", model.hash))
        parts = [("adapter", model.adapter), ("pruner", model.pruner), ("layer plan", model.plan)]
        parts += [(f"layer plan of {mode}", plan) for mode, plan in model.plans.items()]
        parts += [(f"controller of {mode}", found) for mode, found in model.controllers.items()]
        rows += [(what, f"{part.name}, {part.hash}") for what, part in parts if part is not None]
    elif head.served is not None:
        rows.append(("model", f"{head.served}, asked of the server {head.config.get('model')}"))
    else:
        rows.append(("model", "none: no mode of this run calls a language model"))
    rows.append(("machine", _machine(head.machine)))
    rows.append(("versions", _pairs(head.versions)))
    if head.git:
        rows.append(("git", head.git))
    rows.append(("suites", ", ".join(run.suites)))
    rows.append(("modes", ", ".join(run.modes)))
    return [(name, value) for name, value in rows if value]


def _machine(facts: dict[str, Any]) -> str:
    units = {"cpu": "{}", "cores": "{} cores", "threads": "{} threads", "memory_gb": "{} GB memory", "gpu": "GPU {}"}
    return ", ".join(unit.format(facts[key]) for key, unit in units.items() if facts.get(key) is not None)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _text(name: str) -> str:
    return files("erecap.report.page").joinpath(name).read_text(encoding="utf-8")
