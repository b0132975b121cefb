"""Shared parts of `rollout` and `compare`: their arguments, and playing the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from erecap.config import RunConfig
    from erecap.rollout.run import RunResult

FAILED_EPISODES = 3  # exit code of a run that was played to its end, and has episodes that failed

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Run configuration: a packaged name, such as demo, or a YAML file.")
]
OverrideArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to it, such as episodes=2 prune.keep=0.5."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Run folder; else runs/NAME of the configuration.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Play on N processes; timings are then marked contended."),
]
RayOption = Annotated[
    bool,
    typer.Option("--ray", help="Have the --workers on a Ray cluster: RAY_ADDRESS, one running here, or a new one."),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, metavar="N", help="Play N episodes at a time, in shared forward calls; marked contended."
    ),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Delete what the run folder holds of an earlier run.")]


def load_config(
    config: str, overrides: list[str] | None, workers: int | None, batch: int | None, ray: bool = False
) -> RunConfig:
    """The configuration with its changes. Raises ConfigError as `load_run`."""
    from erecap.config import load_run

    changes = list(overrides or [])
    if workers is not None:
        changes += [f"workers={workers}", f"executor={'process' if workers > 1 else 'serial'}"]
    if ray:
        changes.append("executor=ray")
    if batch is not None:
        changes.append(f"batch={batch}")
    return load_run(config, changes)


def play(
    config: str,
    overrides: list[str] | None,
    out: Path | None,
    workers: int | None,
    batch: int | None,
    ray: bool,
    fresh: bool,
) -> RunResult:
    """Load a configuration, play what is missing of its run, and say how it ended.

    Raises:
        typer.Exit: with code 130 after Ctrl-C.
        ErecapError: as `load_run` and `run`.
    """
    loaded = load_config(config, overrides, workers, batch, ray)

    from erecap.rollout.run import run

    result = run(loaded, out or Path("runs") / loaded.name, fresh=fresh)
    if result.status == "interrupted":
        typer.echo(
            f"interrupted after {result.episodes} of {result.total} episodes; "
            f"the same command goes on from there ({result.folder})",
            err=True,
        )
        raise typer.Exit(130)
    if result.played == 0:
        typer.echo(
            f"{result.folder}: finished already, all {result.total} episodes are there (--fresh plays anew)",
            err=True,
        )
    return result


def end(result: RunResult) -> None:
    """Leave with the code for failed episodes if a run has some. Their rows say why.

    Raises:
        typer.Exit: with code 3.
    """
    if result.failed:
        typer.echo(
            f"{result.folder}: {result.failed} of {result.episodes} episodes failed; the field error of their rows in "
            "episodes.jsonl says why",
            err=True,
        )
        raise typer.Exit(FAILED_EPISODES)
