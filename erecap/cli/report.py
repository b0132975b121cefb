"""`erecap report`: the comparison of a run that was played."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/demo.")],
) -> None:
    """Write summary.json and report.html of a run, finished or not, and print its table."""
    show(run)


def show(folder: Path) -> None:
    """Build the report of a run folder and print its table and where the page is."""
    from rich.console import Console

    from erecap.report import build, table

    page = build(folder)
    Console().print(table(folder))
    typer.echo(f"report: {page}")
