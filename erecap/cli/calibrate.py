"""`erecap calibrate`: costs of a replanning call on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from erecap.cli.model_options import DeviceOption, DtypeOption, LayersOption, ModelArgument, ThreadsOption


def calibrate(
    model: ModelArgument,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    layers: LayersOption = None,
    decode_weights: Annotated[str, typer.Option(help="Weights in decoding: same, int8 or int4.")] = "same",
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="On a busy machine: processor time, with --threads 1.")
    ] = False,
) -> None:
    """Time a session's steps for about a minute, and store a cost model that predicts them."""
    from rich.console import Console

    from erecap.calibration.calibrate import calibrate as run
    from erecap.calibration.report import disturbance, error_table, in_words
    from erecap.calibration.store import save_cost_model
    from erecap.cost.machine import cost_key
    from erecap.decoding.linear import known_weights
    from erecap.errors import ConfigError
    from erecap.language_models.build import ModelSettings, open_model

    try:
        weights = known_weights(decode_weights)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    opened = open_model(ModelSettings(model, dtype=dtype, device=device, threads=threads, layers=layers))
    found = run(
        opened.model,
        opened.tokenizer,
        decode_weights=weights,
        processor_time=processor_time,
        say=lambda text: progress.print(text),
    )
    for line in in_words(found.cost):
        typer.echo(line)
    typer.echo()
    Console(markup=False, emoji=False).print(error_table(found))
    warning = disturbance(found)
    if warning is not None:
        progress.print(f"warning: {warning}", style="yellow")
    path = save_cost_model(cost_key(opened.model, weights, weights=opened.cost_print), found)
    typer.echo(f"{found.rounds} rounds in {found.seconds:.0f} s; stored in {path}")
