"""`erecap models`: the language models that planners use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetch, list and check models.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name that `erecap models list` shows.")]


@app.command("pull")
def pull(
    name: NameArgument,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FOLDER", help="Where to put it; else checkpoints/NAME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it is there.")] = False,
) -> None:
    """Fetch a model, with its hash checked. Returns at once if it is there."""
    from erecap.models import pull as fetch

    folder = fetch(name, directory=into, force=force, say=lambda line: typer.echo(line, err=True))
    typer.echo(folder)


@app.command("list")
def list_() -> None:
    """Show the known models, and which of them are on this machine."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from erecap.models import list_models

    name = Column("name", no_wrap=True)  # it is what has to be typed
    table = Table(name, "state", "download", "licence", "source", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for model in list_models():
        state = f"{model.state}: {model.problem}" if model.problem else model.state
        size = f"{model.download_mb} MB"
        table.add_row(*map(Text, (model.name, state, size, model.licence, model.source)))
    Console(markup=False, emoji=False).print(table)


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known name, a folder, or a hub name.")],
    budgets: Annotated[
        bool,
        typer.Option("--budgets", help="Also count what is stored under budgets and keep ratios: exactly as much?"),
    ] = False,
) -> None:
    """Check a model's files and hash, load it, and let it generate."""
    from erecap.cli.checks import show_checks
    from erecap.models import check as run_check

    found = run_check(name)
    show_checks(found)
    if budgets:
        from erecap.evaluation.budgets import check_budgets
        from erecap.models import load

        show_checks(check_budgets(*load(name)))
