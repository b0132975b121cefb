"""`erecap ablate`: the parts of a mode, switched off one at a time on one workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from erecap.cli.benching import names_in, refuse_given
from erecap.cli.playing import BatchOption, ConfigArgument, FreshOption, OverrideArguments, load_config


def ablate(
    context: typer.Context,
    config: ConfigArgument = "ablation",
    overrides: OverrideArguments = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where rows go; else runs/NAME of the configuration.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(metavar="PART,PART", help="Parts to switch off; all that the mode has if left out.")
    ] = None,
    with_prune: Annotated[
        str | None, typer.Option(metavar="SCORER", help="Also with pruning at prefill, ranked by this.")
    ] = None,
    with_layers: Annotated[str | None, typer.Option(metavar="PLAN", help="Also with this layer plan.")] = None,
    with_exit: Annotated[
        str | None, typer.Option(metavar="N|NAME", help="Also with early exit: at N layers, or by a trained predictor.")
    ] = None,
    timed_episodes: Annotated[int, typer.Option(min=1, help="Episodes of each suite that are timed.")] = 2,
    steps: Annotated[str, typer.Option(help="What is measured now, with commas.")] = "time,agreement,success",
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing; figures of what lies in the folder, finished or not.")
    ] = False,
    batch: BatchOption = None,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file for the figures.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="SVG file for the plot.")] = None,
    fresh: FreshOption = False,
) -> None:
    """Switch the parts of a mode off one at a time: time, stored keys and values, plan agreement, success.

    CONFIG has one mode, a session composed of parts. Times are of calls on the expert's plans, the same in every
    variant; success is of each variant's own plans. Can be stopped at any time, and goes on when called again.
    """
    from datetime import UTC, datetime

    from rich.console import Console

    from erecap.errors import ConfigError
    from erecap.evaluation.ablation.play import STEPS, ablate
    from erecap.evaluation.ablation.results import merged
    from erecap.evaluation.ablation.table import screen_table, write_ablation_plot
    from erecap.files import write_json
    from erecap.rollout.run_folder.machine import machine

    if show:
        refuse_given(context, ("steps", "fresh"), "--show")
    chosen = names_in(steps)
    unknown = [step for step in chosen if step not in STEPS]
    if unknown or not chosen:
        raise ConfigError(f"--steps: got {steps!r}; allowed: {', '.join(STEPS)}")
    if parts is not None and not names_in(parts):
        raise ConfigError(f"--parts: got {parts!r}; allowed: names of parts; left out, all that the mode has")
    if "=" in config:  # the first of the changes, to the packaged configuration
        config, overrides = "ablation", [config, *(overrides or ())]
    loaded = load_config(config, overrides, None, batch)
    folder = out or Path("runs") / loaded.name
    progress = Console(markup=False, emoji=False, stderr=True)
    found = ablate(
        loaded,
        folder,
        lambda text: progress.print(text),
        parts=None if parts is None else names_in(parts),
        added=_added(with_prune, with_layers, with_exit),
        timed_episodes=timed_episodes,
        steps=() if show else chosen,
        fresh=fresh,
    )
    Console(markup=False, emoji=False).print(screen_table(found["variants"]))
    if results is not None:
        about = {"command": f"erecap ablate {Path(config).name}", "date": datetime.now(UTC).date().isoformat()}
        adapter = "" if loaded.adapter is None else f" with {Path(loaded.adapter).name}"
        about |= {"model": Path(loaded.model).name + adapter, "machine": str(machine(None)["cpu"])}
        found = merged(found, about, results)
        write_json(results, found)
        typer.echo(f"figures: {results}")
    if plot is not None and write_ablation_plot(plot, found["variants"]) is not None:
        typer.echo(f"plot: {plot}")


def _added(prune: str | None, layers: str | None, exits: str | None) -> dict[str, Any]:
    """Compositions of the parts that options add to the mode."""
    found: dict[str, Any] = {}
    if prune is not None:
        found["prefill-pruning"] = {"prune": prune}
    if layers is not None:
        found["layer-plan"] = {"layers": layers}
    if exits is not None:
        at = {"layer": int(exits)} if exits.isdecimal() else {"predictor": exits}
        found["exit"] = {"decode": {"exit": at}}
    return found
