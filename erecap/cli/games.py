"""`erecap games`: make games ahead of a run."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Generate games; runs make theirs by themselves when they need them.", no_args_is_help=True)


@app.callback()
def _games() -> None:
    # With a callback, `household` stays a command of its own although it is the only one.
    pass


@app.command("household")
def household(
    split: Annotated[str, typer.Option(help="train, seen (same rooms, new placements) or unseen rooms.")],
    count: Annotated[int, typer.Option(help="How many games.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same games.")] = 0,
    task_type: Annotated[
        list[str] | None, typer.Option("--task-type", help="Task type; may be given several times. All if not given.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that make games.")] = 1,
) -> None:
    """Generate household games from real floor plans; those that the expert does not win are dropped and counted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from erecap.envs.household.games.generate import generate
    from erecap.envs.household.options import TASK_TYPES

    console = Console(markup=False, emoji=False, stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("games", total=count)
        report = generate(
            split,
            seed,
            count,
            tuple(task_type or TASK_TYPES),
            workers=workers,
            progress=lambda ready, total: bar.update(task, completed=ready, total=total),
        )
    typer.echo(
        f"{len(report.paths)} games of split {split} in {report.seconds:.0f} s: {report.made} made now, "
        f"{report.dropped} dropped because the expert did not win them"
    )
    typer.echo(f"list: {report.manifest}")
