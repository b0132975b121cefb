"""`erecap compare`: play all modes of a run and show them side by side."""

from __future__ import annotations

from erecap.cli.playing import (
    BatchOption,
    ConfigArgument,
    FreshOption,
    OutOption,
    OverrideArguments,
    RayOption,
    WorkersOption,
    end,
    play,
)
from erecap.cli.report import show


def compare(
    config: ConfigArgument,
    overrides: OverrideArguments = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    batch: BatchOption = None,
    ray: RayOption = False,
    fresh: FreshOption = False,
) -> None:
    """Play what is missing of a run, then write its report and print the comparison of its modes."""
    result = play(config, overrides, out, workers, batch, ray, fresh)
    show(result.folder)
    end(result)
