"""`erecap report`: the comparison of a run that was played."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/demo, or the log of a wrapped planner.")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another planner's log, to stand beside it.")
    ] = None,
) -> None:
    """Write summary.json and report.html of a run, finished or not, and print its table.

    The log of a wrapped planner has calls and no episodes: its figures are printed and written to summary.json.
    """
    from erecap.errors import ConfigError
    from erecap.report.page.calls import is_call_log

    if is_call_log(run):
        show_calls([run, *([] if against is None else [against])])
        return
    if against is not None:
        raise ConfigError(f"--against: {run} is a run with episodes; only logs of wrapped planners stand side by side")
    show(run)


def show_calls(folders: list[Path]) -> None:
    """Print the figures of call logs side by side, and write those of the first into its folder."""
    import sys

    from rich.console import Console

    from erecap.files import write_json
    from erecap.report.page.calls import call_table, summarise_calls

    logs = [(folder.name, summarise_calls(folder)) for folder in folders]
    write_json(folders[0] / "summary.json", logs[0][1])
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 120).print(call_table(logs))


def show(folder: Path) -> None:
    """Build the report of a run folder and print its table and where the page is."""
    from rich.console import Console

    from erecap.report import Report

    report, console = Report.of(folder), Console(markup=False, emoji=False)
    page = report.write()
    console.print(report.table())
    typer.echo(f"report: {page}")
    ending = report.ending()
    if ending is not None:
        console.print(ending)
