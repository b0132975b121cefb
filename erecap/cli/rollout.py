"""`erecap rollout`: play episodes."""

from __future__ import annotations

import typer

from erecap.cli.playing import (
    BatchOption,
    ConfigArgument,
    FreshOption,
    OutOption,
    OverrideArguments,
    RayOption,
    WorkersOption,
    end,
    load_config,
    play,
)


def rollout(
    config: ConfigArgument,
    overrides: OverrideArguments = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    batch: BatchOption = None,
    ray: RayOption = False,
    fresh: FreshOption = False,
) -> None:
    """Play the episodes of a run that are still missing. Can be stopped at any time, and goes on when called again."""
    from erecap.parallel.start import leading
    from erecap.rollout.ranks import follow_run

    if follow_run(load_config(config, overrides, workers, batch, ray)):
        return
    with leading():
        result = play(config, overrides, out, workers, batch, ray, fresh)
    typer.echo(f"{result.folder}: {result.episodes} episodes. Report: erecap report {result.folder}")
    end(result)
