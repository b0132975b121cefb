"""`erecap quality`: effect of pruning on success, on paired episodes, from committed rows."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.cli.playing import (
    FAILED_EPISODES,
    BatchOption,
    ConfigArgument,
    FreshOption,
    OverrideArguments,
    RayOption,
    WorkersOption,
    load_config,
)

if TYPE_CHECKING:
    from erecap.config import RunConfig
    from erecap.rollout.run import RunResult

ROWS = Path("docs/results/raw/quality-episodes.jsonl")  # what `make quality` adds to
RowsOption = Annotated[
    Path, typer.Option("--rows", metavar="FILE", help="Rows of played episodes; it goes on from them.")
]
ResultsOption = Annotated[Path, typer.Option("--results", metavar="FILE", help="Where the figures go.")]


AgreementOption = Annotated[
    str | None,
    typer.Option(
        "--agreement", metavar="SUITE", help="Compare plan tokens with the unpruned model on this suite instead."
    ),
]


def quality(
    config: ConfigArgument = "quality",
    overrides: OverrideArguments = None,
    rows: RowsOption = ROWS,
    results: ResultsOption = Path("docs/results/quality.json"),
    workers: WorkersOption = None,
    batch: BatchOption = None,
    ray: RayOption = False,
    agreement: AgreementOption = None,
    fresh: FreshOption = False,
) -> None:
    """Play the episodes of CONFIG that FILE lacks, add them to it, and write the figures of all of its rows.

    Can be stopped at any time, and goes on when called again, also in a clone that has only the file.
    """
    from erecap.errors import ConfigError

    loaded = load_config(config, overrides, workers, batch, ray)
    command = "make quality" if rows == ROWS else f"erecap quality {config} --rows {rows.name}"
    if agreement is not None:
        if workers is not None or batch is not None or ray:
            raise ConfigError(
                "--agreement: one episode at a time, in this process; --workers, --batch, --ray are not allowed"
            )
        try:
            compare_plans(loaded, agreement, agreement_path(rows), fresh)
        except KeyboardInterrupt:
            summarise(rows, results, command)  # what was measured counts
            raise
        summarise(rows, results, command)
        return
    failed = 0
    for part in _unpruned_first(loaded):
        result = play_missing(part, rows, fresh)
        failed += result.failed
        if result.status == "interrupted":
            break
    summarise(rows, results, command)
    if result.status == "interrupted":
        modes = ", ".join(part.modes)
        done = f"interrupted after {result.episodes} of {result.total} episodes of {modes}"
        typer.echo(f"{done}; call it again to go on", err=True)
        raise typer.Exit(130)
    if failed:
        typer.echo(f"{rows}: {failed} episodes failed; the field error of their rows says why", err=True)
        raise typer.Exit(FAILED_EPISODES)


def _unpruned_first(config: RunConfig) -> list[RunConfig]:
    """The configuration in two: modes without a budget, then the others, of whose episodes some need no playing."""
    from erecap.rollout.run_folder.identity import budget_of

    free = [mode for mode in config.modes if budget_of(config, mode) is None]
    within = [mode for mode in config.modes if mode not in free]
    return [config.model_copy(update={"modes": modes}) for modes in (free, within) if modes]


def play_missing(config: RunConfig, rows: Path, fresh: bool) -> RunResult:
    """Play the episodes that the file `rows` lacks, and add them to it, whatever ends the playing."""
    from erecap.config import load_suites
    from erecap.evaluation.results_file import CommittedRows
    from erecap.rollout.run import run

    committed = CommittedRows(rows, config, load_suites(config), fresh=fresh)
    folder = Path("runs") / f"{config.name}-{committed.digest}"
    committed.prepare(folder, fresh=fresh)
    try:
        return run(config, folder)
    finally:
        added = committed.export_from(folder)
        typer.echo(f"{rows}: {', '.join(config.modes)}: {added} new rows", err=True)


def agreement_path(rows: Path) -> Path:
    """The file of plans compared token by token, beside the rows of episodes."""
    if "episodes" in rows.stem:
        return rows.with_name(rows.name.replace("episodes", "agreement"))
    return rows.with_name(f"{rows.stem}-agreement{rows.suffix}")


def compare_plans(config: RunConfig, suite: str, path: Path, fresh: bool) -> None:
    """Measure the missing agreement on one suite of the configuration.

    Raises:
        ConfigError: the configuration has no such suite.
    """
    from rich.console import Console

    from erecap.config import load_suites
    from erecap.errors import ConfigError
    from erecap.evaluation.plan_agreement import measure_agreement

    suites = load_suites(config)
    if suite not in suites:
        raise ConfigError(f"--agreement {suite}: not a suite of {config.name}; allowed: {', '.join(suites)}")
    console = Console(markup=False, emoji=False, stderr=True)
    added = measure_agreement(path, config, suites[suite], console.print, fresh=fresh)
    typer.echo(f"{path}: {added} new rows", err=True)


def summarise(rows: Path, results: Path, command: str) -> None:
    """Write the figures of all rows, the plot beside them, and print the targets."""
    from rich.console import Console
    from rich.table import Table

    from erecap.evaluation.figures import summarise_quality
    from erecap.evaluation.rows import AgreementRow, QualityRow, read_quality
    from erecap.evaluation.table import PLOT, write_budget_plot
    from erecap.files import write_json
    from erecap.rollout.run_folder.machine import machine

    about = {
        "command": command,
        "machine": str(machine(None)["cpu"]),
        "date": date.today().isoformat(),
    }
    agreement = read_quality(agreement_path(rows), AgreementRow)
    content = summarise_quality(read_quality(rows, QualityRow), agreement, about)
    content["rows"] = [_dated(row, results) for row in content["rows"]]
    write_json(results, content)
    write_budget_plot(results.with_name(PLOT), content)
    table = Table("id", "target", "measured", "95 %", "n", "", box=None, padding=(0, 2, 0, 0))
    for row in content["rows"]:
        word = row["label"] if row["label"] == "smoke" else "holds" if row["holds"] else "short"
        interval = f"{row['low']:g} to {row['high']:g}"
        table.add_row(
            row["id"], f"{row['target']} {row['unit']}", f"{row['measured']:g}", interval, str(row["n"]), word
        )
    Console(markup=False, emoji=False).print(table)
    typer.echo(f"figures: {results}")


def _dated(row: dict[str, Any], results: Path) -> dict[str, Any]:
    """`row`, or what the file has of it where nothing but its date and machine would change."""
    from erecap.untrusted import read_json

    before = read_json(results)["rows"] if results.exists() else []
    same = [old for old in before if {**old, "date": 0, "machine": 0} == {**row, "date": 0, "machine": 0}]
    return same[0] if same else row
